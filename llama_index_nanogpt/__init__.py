"""NanoGPT's embedding and chat models in LlamaIndex.

The LLM is loaded when it is first used: its base class imports the whole of the OpenAI SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanogpt_core._runtime.extras import missing_extra

try:
    from llama_index_nanogpt.embeddings import NanoGPTEmbedding
except ImportError as error:
    raise missing_extra("llama_index_nanogpt", "llama-index", error) from error

if TYPE_CHECKING:
    from llama_index_nanogpt.llm import NanoGPT

__all__ = ["NanoGPT", "NanoGPTEmbedding"]


def __getattr__(name: str) -> object:
    if name == "NanoGPT":
        from llama_index_nanogpt.llm import NanoGPT

        return NanoGPT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
