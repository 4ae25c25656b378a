"""NanoGPT's embedding and chat models in LangChain."""

from langchain_nanogpt.chat_models import ChatNanoGPT
from langchain_nanogpt.embeddings import NanoGPTEmbeddings

__all__ = ["ChatNanoGPT", "NanoGPTEmbeddings"]
