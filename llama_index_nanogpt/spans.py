"""LlamaIndex's spans and events: one span for a method that calls the base class's, and a search for handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from llama_index.core.instrumentation import DISPATCHER_SPAN_DECORATED_ATTR  # type: ignore[attr-defined] # re-exported
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.instrumentation.span_handlers import NullSpanHandler

F = TypeVar("F", bound=Callable[..., Any])


def in_span_of_base_class(method: F) -> F:
    """Keep LlamaIndex from making a span for a method that calls the base class's, which makes one of that name."""
    setattr(method, DISPATCHER_SPAN_DECORATED_ATTR, True)
    return method


def has_handlers(*dispatchers: Any) -> bool:
    """Return whether a handler gets the events and spans of one of the dispatchers."""
    levels = [*dispatchers]
    while levels:
        level = levels.pop()
        handlers = *level.event_handlers, *level.span_handlers
        # LlamaIndex's own, which do nothing, are always there.
        if not all(type(handler) in (NullEventHandler, NullSpanHandler) for handler in handlers):
            return True
        if level.propagate:
            levels.append(level.parent)
    return False
