"""Errors of redis-py: outages and refusals told apart, without passwords, vectors and open connections."""

from __future__ import annotations

import contextlib
import re
import sys
import traceback
from collections.abc import Iterator

from nanogpt_core._runtime.signals import unwrap_signal_errors
from nanogpt_core.errors import ConfigurationError, NanoGPTError, causes
from nanogpt_core.scale.redis_address import RedisAddress

OTHER_KEYS_REMEDY = "Another program uses these keys: pass another name or prefix."
"""Remedy for keys that hold other things than those that this project writes."""

# Codes of errors of a server that runs, and cannot do the work now. redis-py has classes for some of them.
# Before Redis 7, the code of an error in a script comes after its place: "... @user_script: 12: -READONLY ...".
_TEMPORARY_CODES = re.compile(
    r"(?:^|-)(?:READONLY|OOM|LOADING|CLUSTERDOWN|MASTERDOWN|TRYAGAIN|BUSY|MISCONF|NOREPLICAS)\b"
)

_DENIED = re.compile(r"^(?:NOAUTH|WRONGPASS|NOPERM|AUTH called without)|no permissions|can't run this command")
"""Errors of the password and of rights. A script passes on those of its commands in other words, by version."""

_OTHER_VALUES = re.compile(r"WRONGTYPE|not an? (?:valid )?(?:float|integer)|attempt to")
"""Errors of commands and scripts that find other things than those that this project writes."""


def server_words(error: Exception) -> str:
    """Return the message without the command that redis-py puts before it in a pipeline: that may hold vectors."""
    return str(error).rpartition(" of pipeline caused error: ")[2]


@contextlib.contextmanager
def drop_frames() -> Iterator[None]:
    """Drop the local variables of frames that an error of redis-py in this block has passed through.

    Its errors and frames refer to each other. They would keep the client, with open connections, until the garbage
    collector runs; and one of them holds the password. An exception of a signal handler is raised as it was raised.
    """
    handled = sys.exc_info()[1]
    try:
        with unwrap_signal_errors():
            yield
    except BaseException as error:
        for cause in causes(error, handled):
            traceback.clear_frames(cause.__traceback__)
        raise


def server_error(error: Exception, address: RedisAddress) -> NanoGPTError | None:
    """Return our error for an error of redis-py that does not go away by itself; None for an outage."""
    from redis import exceptions

    denied = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
    temporary = (
        exceptions.ClusterDownError,
        exceptions.MasterDownError,
        exceptions.OutOfMemoryError,
        exceptions.ReadOnlyError,
        exceptions.TryAgainError,
    )
    words = server_words(error)
    if isinstance(error, temporary) or _TEMPORARY_CODES.search(words):
        return None
    if isinstance(error, denied) or _DENIED.search(words):
        remedy = "Check user, password and rights in its URL."
    elif isinstance(error, exceptions.AskError):  # its subclass MovedError too
        words, remedy = f"another node has the keys: {words}", "Pass cluster=True."
    elif isinstance(error, exceptions.RedisClusterException) and "not enabled" in words:
        remedy = "Leave cluster=True out."
    elif "DB index" in words:
        remedy = "Correct the number of the database in its URL."
    elif _OTHER_VALUES.search(words):
        remedy = OTHER_KEYS_REMEDY
    elif isinstance(error, exceptions.ResponseError):
        remedy = "Redis 5 or later, or Valkey, is needed, with the right to run scripts."
    else:
        return None
    return ConfigurationError(f"Redis at {address.place} refuses: {address.hide_password(words)}.", remedy=remedy)
