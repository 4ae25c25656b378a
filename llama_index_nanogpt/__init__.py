"""NanoGPT's embedding and chat models in LlamaIndex."""

from llama_index_nanogpt.embeddings import NanoGPTEmbedding
from llama_index_nanogpt.llm import NanoGPT

__all__ = ["NanoGPT", "NanoGPTEmbedding"]
