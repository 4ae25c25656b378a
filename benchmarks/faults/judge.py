"""Judges errors: their quality, and secrets in them."""

from __future__ import annotations

import binascii
import json
import re
import traceback
from dataclasses import dataclass, field

from benchmarks.faults.vectors import KEY

RAW = "raw error"
TYPED = "typed error"
WRONG = "silently wrong"
HANG = "hang"
_PARSERS = (json.JSONDecodeError, binascii.Error, UnicodeError)


@dataclass
class Result:
    """The result of one client and one fault.

    Attributes:
        outcome: Right, typed error, raw error, silently wrong, or hang.
        error: The error's class, or nothing.
        message: The error's message.
        leaks: Leaked values.
        kept: Finished vectors that the error carries.
        virtual: Seconds waited that took no time.
        elapsed: Seconds that it took.
        connections: Connections that were tried.
        memory: MiB by which the process grew.
        requests: Embedding requests that the server saw.
        repeats: Texts that were sent a second time.
    """

    outcome: str
    error: str = ""
    message: str = ""
    leaks: list[str] = field(default_factory=list)
    kept: int = 0
    virtual: float = 0.0
    elapsed: float = 0.0
    connections: int = 0
    memory: float = 0.0
    requests: int = 0
    repeats: int = 0

    @property
    def waited(self) -> float:
        """Seconds until the outcome was there, virtual ones among them."""
        return self.virtual + self.elapsed


def judge(error: BaseException, words: tuple[str, ...]) -> Result:
    """Return the result that ``error`` stands for."""
    message = re.sub(r"127\.0\.0\.(\d):\d+", r"127.0.0.\1", " ".join(str(error).split()))
    typed = getattr(error, "typed", None) or is_typed(error, words)
    return Result(
        outcome=TYPED if typed else RAW,
        error=type(error).__name__,
        message=message.replace(KEY, "<KEY>")[:300],
        leaks=_leaks(error),
        kept=len(getattr(error, "completed", ())),
    )


def is_typed(error: BaseException, words: tuple[str, ...] = ()) -> bool:
    """Return True if an error is its client's or LangChain's own, or a ``ValueError`` that holds one of ``words``."""
    import openai

    from nanogpt_core.errors import NanoGPTError

    if isinstance(error, NanoGPTError):
        return type(error) is not NanoGPTError
    if isinstance(error, openai.OpenAIError) or _is_langchains(error):
        return True
    clear = any(word in str(error).lower() for word in words)
    return isinstance(error, ValueError) and not isinstance(error, _PARSERS) and clear


def _is_langchains(error: BaseException) -> bool:
    kinds = ("LangChainException", "ModelError")
    return any(
        kind.__name__ in kinds and kind.__module__ == "langchain_core.exceptions" for kind in type(error).__mro__
    )


def _leaks(error: BaseException) -> list[str]:
    if KEY in "".join(traceback.format_exception(error)):
        return ["key in the traceback"]
    return ["key in the traceback's locals"] if _locals_show_key(error) else []


def _locals_show_key(error: BaseException) -> bool:
    frames = [frame for link in _chain(error) for frame, _ in traceback.walk_tb(link.__traceback__)]
    # The measurement's own frames hold the key, and are no client's fault.
    theirs = [frame for frame in frames if "/benchmarks/faults/" not in frame.f_code.co_filename]
    return any(KEY in _shown(value) for frame in theirs for value in frame.f_locals.values())


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    waiting = [error]
    while waiting:
        link = waiting.pop()
        if not any(link is known for known in found):
            found.append(link)
            waiting += [other for other in (link.__cause__, link.__context__) if other is not None]
    return found


def _shown(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - as debuggers do, with objects that are half made
        return ""
