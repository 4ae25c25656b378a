"""Annotations of chat answers, such as citations of web pages by models with online search. Pure.

OpenAI has them in ``message.annotations``: ``{"type": "url_citation", "url_citation": {"url": ..., "title": ...,
"start_index": ..., "end_index": ...}}``. Neither framework keeps those of chat completions.
"""

from __future__ import annotations

from typing import Any

ANNOTATIONS = "annotations"
"""The field of a message, or of a delta, with annotations."""


def parse_annotations(value: Any) -> list[dict[str, Any]]:
    """Return the annotations in a field of a reply; none if it is neither a list nor an object."""
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict) and one]


def annotations_of(source: Any) -> list[dict[str, Any]]:
    """Return the annotations of a message, or of a delta: a dictionary, or an object of the SDK."""
    found = source.get(ANNOTATIONS) if isinstance(source, dict) else getattr(source, ANNOTATIONS, None)
    return [one if isinstance(one, dict) else one.to_dict(warnings=False) for one in found or ()]
