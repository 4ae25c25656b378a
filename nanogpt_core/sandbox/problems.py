"""The ways in which the sandbox says no, in the documented error shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Problem", "bad_value", "too_large"]


class Problem(Exception):  # noqa: N818 - this becomes an answer; nobody outside the sandbox catches it
    """A request that gets an error answer.

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
        type: str = "invalid_request_error",  # noqa: A002 - the field's name on the wire
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self.body = body or {"error": {"message": message, "type": type, "param": param, "code": code}}


def bad_value(message: str, param: str | None) -> Problem:
    """Return the 400 of a parameter whose value is not accepted."""
    return Problem(400, message, param=param, code="invalid_parameter_value")


def too_large(message: str) -> Problem:
    """Return the 400 of an input with too many tokens."""
    return Problem(400, message, param="input", code="context_length_exceeded")
