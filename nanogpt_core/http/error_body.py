"""Reads error bodies: the service's message, the parameter that it names, and excerpts for our own messages."""

from __future__ import annotations

__all__ = ["as_sentence", "error_message", "error_object", "error_param", "excerpt"]

_SHOWN = 300


def error_object(document: object) -> object:
    """Return the object of an error body; Gemini's endpoint for the OpenAI SDK sends it in an array."""
    return document[0] if isinstance(document, list) and document else document


def error_message(document: object) -> str:
    """Return the message of an error body, truncated; empty if it has none."""
    document = error_object(document)
    if not isinstance(document, dict):
        return ""
    error = document.get("error") or document.get("message") or document.get("detail")
    if isinstance(error, dict):
        error = error.get("message") or error
    if isinstance(error, list):
        error = "; ".join(map(_complaint, error))
    return excerpt(str(error)) if error else ""


def error_param(complaints: list[object]) -> str:
    """Return the parameter that FastAPI's list of errors names; ``input`` if one of them names that."""
    places = [item.get("loc") for item in complaints if isinstance(item, dict)]
    names = [place[-1] if "input" not in place else "input" for place in places if isinstance(place, list) and place]
    return "input" if "input" in names or not names else str(names[0])


def _complaint(item: object) -> str:
    # FastAPI repeats the request's texts, which must not be logged or searched for words.
    return f"{item['msg']} ({item.get('loc')})" if isinstance(item, dict) and "msg" in item else str(item)


def excerpt(text: bytes | str) -> str:
    """Return the beginning of ``text`` in one line, for an error message."""
    if isinstance(text, bytes):
        text = text[: _SHOWN * 4].decode(errors="replace")
    # Half a surrogate pair can be said in JSON, but not written out.
    line = " ".join(text[: _SHOWN * 4].encode(errors="replace").decode().split())
    return line if len(line) <= _SHOWN else line[:_SHOWN] + "…"


def as_sentence(text: str) -> str:
    """Return ``text`` with a full stop at its end, unless it ends a sentence already."""
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."
