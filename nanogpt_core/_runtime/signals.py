"""Exceptions that a signal handler of the program raises, such as the time limit of a task queue."""

from __future__ import annotations

import signal
import traceback


def raised_by_signal_handler(error: BaseException) -> bool:
    """Return whether a signal handler of the program raised ``error`` while other code ran: it must end the call."""
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    # A method has the code of its function; an object that can be called has it in its class.
    functions = [*handlers, *(getattr(type(handler), "__call__", None) for handler in handlers)]  # noqa: B004
    codes = {getattr(function, "__code__", None) for function in functions}
    return any(frame.f_code in codes for frame, _ in traceback.walk_tb(error.__traceback__))
