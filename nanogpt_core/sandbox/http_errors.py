"""Error answers of the sandbox, in the documented form."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import Any


class HTTPError(Exception):
    """Ends the handling of a request with an error answer.

    Attributes:
        status: HTTP status.
        body: The JSON body.
        headers: Further response headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",  # noqa: A002 - the field's name in the reply
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = body or {"error": {"message": message, "type": type, "param": param, "code": code}}


def invalid_value(message: str, param: str | None) -> HTTPError:
    """Return the error for an invalid value of a parameter (400)."""
    return HTTPError(400, message, param=param, code="invalid_parameter_value")


def too_large(message: str) -> HTTPError:
    """Return the error for an input with too many tokens (400)."""
    return HTTPError(400, message, param="input", code="context_length_exceeded")


def failed_function(name: str, error: Exception) -> HTTPError:
    """Return the error for a function or an iterator of the user's that raised ``error`` (500), with its place."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return HTTPError(500, f"{name} failed: {error!r} ({frame.filename}, line {frame.lineno}).", type="server_error")
