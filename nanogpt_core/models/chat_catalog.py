"""The catalog of chat models: context window, longest answer and abilities of models that NanoGPT offers.

The catalog, ``chat_models.csv``, is a snapshot of November 2026 that works offline: models under the names that NanoGPT
has for them. Source: models.dev by way of the profiles of langchain-openrouter 0.2.9; figures there that are only a
share of the context window are left out. A host of NanoGPT's may allow less, and the service's live list
(``GET /models``) is newer: :func:`nanogpt_core.models.listing.fetch_chat_model`.
"""

from __future__ import annotations

import csv
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class ChatModelInfo:
    """One chat model. An unknown value is None, never a guess.

    Attributes:
        id: The name in requests.
        context_window: Maximum number of tokens of a request.
        max_output_tokens: Maximum number of tokens of an answer.
        tool_calling: True if the model calls tools.
        structured_output: True if the model's answers can be made to follow a JSON schema.
        image_inputs: True if messages may have images.
        reasoning: True if the model thinks before it answers.
        pdf_inputs: True if messages may have PDF files.
    """

    id: str
    context_window: int | None = None
    max_output_tokens: int | None = None
    tool_calling: bool | None = None
    structured_output: bool | None = None
    image_inputs: bool | None = None
    reasoning: bool | None = None
    pdf_inputs: bool | None = None


def get_chat_model(name: str) -> ChatModelInfo | None:
    """Return the facts about a model, with or without its vendor and NanoGPT's suffixes; None for an unknown one."""
    return next((CHAT_MODELS[known] for known in names_without_suffixes(name) if known in CHAT_MODELS), None)


def names_without_suffixes(model: str) -> Iterator[str]:
    """Yield the name of a model, and then the name without one suffix, such as ``:online``, after another."""
    while model:
        yield model
        model = model.rpartition(":")[0]


def _rows() -> Iterator[tuple[str, ChatModelInfo]]:
    table = pkgutil.get_data(__name__, "chat_models.csv") or b""  # also from an archive
    for row in csv.DictReader(table.decode().splitlines()):
        name, abilities = row["name"], row["abilities"]  # t: tools, s: structured output, v: vision, r: reasoning
        info = ChatModelInfo(
            name,
            int(row["context_window"]),
            int(row["max_output_tokens"]) if row["max_output_tokens"] else None,
            tool_calling="t" in abilities,
            structured_output="s" in abilities,
            image_inputs="v" in abilities,
            reasoning="r" in abilities,
        )
        yield name, info
        yield name.partition("/")[2], info


CHAT_MODELS: Mapping[str, ChatModelInfo] = MappingProxyType(dict(_rows()))
"""The models, by name with and without vendor. Read with the module: a later read could block an event loop."""
