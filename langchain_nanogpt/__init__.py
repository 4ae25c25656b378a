"""NanoGPT's embedding and chat models in LangChain.

The chat model is loaded when it is first used: its base class takes two seconds to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_nanogpt.embeddings import NanoGPTEmbeddings

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
