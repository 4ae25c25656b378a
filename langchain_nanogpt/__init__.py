"""NanoGPT's embedding and chat models in LangChain.

The chat model is loaded when it is first used: its base class takes two seconds to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanogpt_core._runtime.extras import missing_extra

try:
    from langchain_nanogpt.embeddings import NanoGPTEmbeddings
except ImportError as error:
    raise missing_extra("langchain_nanogpt", "langchain", error) from error

if TYPE_CHECKING:
    from langchain_nanogpt.chat_models import ChatNanoGPT

__all__ = ["ChatNanoGPT", "NanoGPTEmbeddings"]


def __getattr__(name: str) -> object:
    if name == "ChatNanoGPT":
        from langchain_nanogpt.chat_models import ChatNanoGPT

        return ChatNanoGPT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
