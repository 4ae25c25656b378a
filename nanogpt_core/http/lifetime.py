"""The life of an object that sends requests: open until ``close()``, ``aclose()``, or the end of a ``with`` block."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanogpt_core.errors import ConfigurationError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self


class Lifetime:
    """The state of one object: open or closed.

    Connections are shared. They stay open as long as an object that has used them is open.

    Attributes:
        is_closed: Whether the object was closed.
    """

    def __init__(self) -> None:
        self.is_closed = False

    def check_open(self) -> None:
        """Check that the object is open.

        Raises:
            ConfigurationError: It was closed.
        """
        if self.is_closed:
            raise ConfigurationError(
                "This object was closed, by close() or at the end of a with block.",
                remedy="Make a new one, or close it after the last call.",
            )


class Closeable:
    """A base class of objects with :meth:`close` and :meth:`aclose`: they work in ``with`` and ``async with``."""

    def close(self) -> None:
        """Close the object."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close the object, without blocking the event loop."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
