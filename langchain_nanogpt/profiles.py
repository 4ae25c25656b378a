"""LangChain's profiles of models, from the rows of the core."""

from __future__ import annotations

from typing import cast

from langchain_core.language_models import ModelProfile

from nanogpt_core.models.chat_catalog import ChatModelInfo


def as_profile(info: ChatModelInfo) -> ModelProfile:
    """Return what is known of a model as LangChain's profile of it."""
    known = {
        "max_input_tokens": info.context_window,
        "max_output_tokens": info.max_output_tokens,
        "tool_calling": info.tool_calling,
        "structured_output": info.structured_output,
        "image_inputs": info.image_inputs,
        "pdf_inputs": info.pdf_inputs,
        "reasoning_output": info.reasoning,
    }
    given = {name: value for name, value in known.items() if value is not None}
    return cast("ModelProfile", {"text_inputs": True, "text_outputs": True, **given})
