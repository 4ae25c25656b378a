"""LangChain's profiles of models, from the rows of the core."""

from __future__ import annotations

from langchain_core.language_models import ModelProfile

from nanogpt_core.models.chat_catalog import ChatModelInfo

__all__ = ["as_profile"]


def as_profile(info: ChatModelInfo) -> ModelProfile:
    """Return what is known of a model as LangChain's profile of it."""
    profile: ModelProfile = {"text_inputs": True, "text_outputs": True}
    if info.context_window is not None:
        profile["max_input_tokens"] = info.context_window
    if info.max_output_tokens is not None:
        profile["max_output_tokens"] = info.max_output_tokens
    if info.tool_calling is not None:
        profile["tool_calling"] = info.tool_calling
    if info.structured_output is not None:
        profile["structured_output"] = info.structured_output
    if info.image_inputs is not None:
        profile["image_inputs"] = info.image_inputs
    if info.pdf_inputs is not None:
        profile["pdf_inputs"] = info.pdf_inputs
    if info.reasoning is not None:
        profile["reasoning_output"] = info.reasoning
    return profile
