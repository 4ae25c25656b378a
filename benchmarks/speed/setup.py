"""A client, and the settings that it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

KEY = "sk-nano-benchmark"


@dataclass(frozen=True)
class Setup:
    """The server's address and options.

    Attributes:
        port: Its port on this machine.
        authority: The file with the certificate of the server's authority, or empty without TLS.
        cache: A folder for clients that keep vectors.
    """

    port: int
    authority: str = ""
    cache: str = ""

    @property
    def url(self) -> str:
        """The base URL."""
        return f"{'https' if self.authority else 'http'}://127.0.0.1:{self.port}/v1"


Run = Callable[[list[str]], Any]
AsyncRun = Callable[[list[str]], Awaitable[Any]]


@dataclass(frozen=True)
class Client:
    """One way to embed texts.

    Attributes:
        label: Name in the results.
        make: Sets it up, and returns a function that embeds a list of texts, or one query.
        form: Type of the result: ``"matrix"``, ``"lists"``, ``"vector"`` for a query, or ``"nothing"``.
        is_async: True if the function that ``make`` returns is async.
        settings: The settings that are not the defaults, in words.
    """

    label: str
    make: Callable[[Setup], Run]
    form: str
    is_async: bool = False
    settings: str = ""
