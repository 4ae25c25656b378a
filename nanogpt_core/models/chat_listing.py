"""What NanoGPT's live list of chat models says of one of them."""

from __future__ import annotations

from collections.abc import Iterator

from nanogpt_core.errors import ConfigurationError, ReplyError
from nanogpt_core.http.endpoint import DEFAULT_TIMEOUT, Endpoint
from nanogpt_core.http.error_body import excerpt
from nanogpt_core.http.redaction import redacted
from nanogpt_core.models.listing import MOST_BYTES

__all__ = ["fetch_context_window"]


def fetch_context_window(endpoint: Endpoint, model: str) -> int:
    """Return how many tokens the service's list (``GET /models``) says that ``model`` takes.

    Suffixes such as ``:online`` are left out where the list does not know the name with them.

    Raises:
        ConfigurationError: The list does not say.
        NanoGPTError: The list could not be had.
    """
    from nanogpt_core.http.requester import Requester

    with redacted(endpoint):
        seconds = min(endpoint.timeout, DEFAULT_TIMEOUT)  # a list takes no thinking
        windows = _windows(Requester(endpoint).send("/models?detailed=true", None, seconds, MOST_BYTES))
    for name in _shorter(model):
        if name in windows:
            return windows[name]
    raise ConfigurationError(
        f"The service's list of models has no context length for {model!r}.", remedy="Pass context_window as a number."
    )


def _windows(body: bytes) -> dict[str, int]:
    from jiter import from_json  # comes with the SDK, which is imported late

    try:
        document = from_json(body)
    except ValueError as error:
        raise ReplyError(f"The list of chat models is not JSON, but begins {excerpt(body)!r}.") from error
    rows = document.get("data") if isinstance(document, dict) else None
    found: dict[str, int] = {}
    for row in rows if isinstance(rows, list) else ():
        name, window = (row.get("id"), row.get("context_length")) if isinstance(row, dict) else (None, None)
        if isinstance(name, str) and type(window) is int and window > 0:
            found[name] = window
    return found


def _shorter(model: str) -> Iterator[str]:
    while model:
        yield model
        model = model.rpartition(":")[0]
