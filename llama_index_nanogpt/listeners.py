"""Whether anybody would be told of LlamaIndex's events."""

from __future__ import annotations

from llama_index.core.base.embeddings.base import dispatcher as dispatcher_of_embeddings
from llama_index.core.callbacks import CallbackManager
from llama_index.core.instrumentation.event_handlers import NullEventHandler
from llama_index.core.instrumentation.span_handlers import NullSpanHandler

__all__ = ["has_event_handlers"]

_DEAF = (NullEventHandler, NullSpanHandler)


def has_event_handlers(callbacks: CallbackManager) -> bool:
    """Return whether an embedding event would reach a handler: one of ``callbacks``, or of LlamaIndex's dispatchers."""
    # A manager of another class may listen by itself.
    if callbacks.handlers or type(callbacks) is not CallbackManager:
        return True
    dispatcher = dispatcher_of_embeddings
    while True:
        if any(type(handler) not in _DEAF for handler in (*dispatcher.event_handlers, *dispatcher.span_handlers)):
            return True
        if not dispatcher.propagate:
            return False
        dispatcher = dispatcher.parent
