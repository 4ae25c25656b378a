"""Exceptions that a signal handler of the program raises, such as the time limit of a task queue."""

from __future__ import annotations

import contextlib
import signal
import sys
import traceback
from collections.abc import Iterator

from nanogpt_core.errors import causes


def raised_by_signal_handler(error: BaseException) -> bool:
    """Return whether a signal handler of the program raised ``error`` while other code ran: it must end the call."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    # Those of the system are members of an enum, whose class has a method __call__ for other purposes.
    handlers = [getattr(handler, "func", handler) for handler in handlers if callable(handler)]  # func: of a partial
    # A method has the code of its function; an object that can be called has it in its class.
    functions = [*handlers, *(type(handler).__call__ for handler in handlers)]
    codes = {getattr(function, "__code__", None) for function in functions}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))


@contextlib.contextmanager
def unwrap_signal_errors() -> Iterator[None]:
    """Raise an exception of a signal handler as it was raised, if code in this block has made another error of it.

    Libraries of sockets take a ``TimeoutError`` or ``OSError`` of a handler for one of the socket.
    """
    handled = sys.exc_info()[1]
    try:
        yield
    except BaseException as error:  # noqa: BLE001 - raised again, with the cause it had
        raise next(filter(raised_by_signal_handler, causes(error, handled)), error)  # noqa: B904
