"""Reports of calls: every finished request goes to the log, usage, the hook and the span from one place."""

from __future__ import annotations

import contextlib
import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass, field
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.log import logger
from nanogpt_core._runtime.signals import raised_by_signal_handler, unwrap_signal_errors
from nanogpt_core._runtime.words import counted
from nanogpt_core.errors import InvalidTypeError, causes
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.secrets import without_secrets
from nanogpt_core.observability.records import Kind, OnRequest, RequestRecord, error_name
from nanogpt_core.observability.telemetry import CallTelemetry, begin
from nanogpt_core.observability.usage import UsageMeter, active_trackers

if TYPE_CHECKING:
    from typing_extensions import Self


_NO_PARAMETERS: Mapping[str, Any] = MappingProxyType({})


@dataclass(slots=True)
class RequestTimer:
    """Time and attempts of one request.

    Attributes:
        attempts: HTTP requests so far.
        uncertain: Those that failed and may have been billed.
        ended: The time by the clock at which the request ended; None as long as it goes on.
    """

    attempts: int = 0
    uncertain: int = 0
    ended: float | None = None
    _started: float = field(default_factory=clock.now)

    @property
    def seconds(self) -> float:
        """Duration of the request, so far if it goes on."""
        return (clock.now() if self.ended is None else self.ended) - self._started


@dataclass(eq=False, slots=True)
class Observer:
    """Makes the observers of an object's calls."""

    kind: Kind
    endpoint: Endpoint
    hook: OnRequest | None = None
    meter: UsageMeter | None = None
    _failed: set[str] = field(default_factory=set, init=False)  # names of code of the user that has raised

    def begin_call(self, model: str, parameters: Mapping[str, Any] = _NO_PARAMETERS) -> CallObserver:
        """Return the observer of a call that begins now, in this thread or task; its span shows the ``parameters``."""
        telemetry = None
        if "opentelemetry" in sys.modules:  # a program that records spans or metrics has imported it
            with self.surviving("OpenTelemetry"):
                telemetry = begin(self.kind, model, self.endpoint.base_url, parameters)
        return CallObserver(self, model, telemetry)

    @contextlib.contextmanager
    def surviving(self, name: str) -> Iterator[None]:
        """Run code of the user: its first error is logged under ``name``, and none ends a call."""
        failure = sys.exc_info()[1]  # the error of the request, if it failed
        try:
            with unwrap_signal_errors():
                yield
        except Exception as error:
            if raised_by_signal_handler(error):
                raise
            for cause in causes(error):
                if cause.__context__ is failure:
                    cause.__context__ = None  # its message may repeat the key or a text, and must not be logged
            if name not in self._failed:
                self._failed.add(name)
                logger.warning("%s failed; later failures are not logged.", name, exc_info=True)


class CallObserver:
    """Reports the requests of one call, from any thread, also after its end.

    The hook runs in the context of the caller, even if another thread or task sends the request: a context variable
    with the user's name, for example, has the value of the call.

    Attributes:
        model: Name of the model.
        dimensions: Dimensions of the vectors, for the span.
        response_model: The model that the answer of a chat names, for the span; empty if it names none.
        finish_reasons: The reasons for which a chat's choices ended, for the span.
        sending: Returns a context for the HTTP request: its own span becomes a child of the call's.
    """

    __slots__ = (
        *("_context", "_observer", "_telemetry", "_trackers"),
        *("dimensions", "finish_reasons", "model", "response_model", "sending"),
    )

    def __init__(self, observer: Observer, model: str, telemetry: CallTelemetry | None) -> None:
        self._observer = observer
        self.model = model
        self.dimensions: int | None = None
        self.response_model = ""
        self.finish_reasons: Sequence[str] = ()
        self._telemetry = telemetry
        self.sending: Callable[[], contextlib.AbstractContextManager[Any]] = (
            contextlib.nullcontext if telemetry is None else telemetry.current
        )
        self._trackers = active_trackers.get()
        self._context = None if observer.hook is None else copy_context()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.end(error)

    def end(self, error: BaseException | None = None) -> None:
        """End the call, and its span. A stream that its consumer leaves is no error."""
        telemetry, self._telemetry = self._telemetry, None
        if telemetry is not None:
            self.sending = contextlib.nullcontext
            failure = None if error is None or isinstance(error, GeneratorExit) else error_name(error)
            with self._observer.surviving("OpenTelemetry"):
                said = (self.response_model, *self.finish_reasons)
                model, *reasons = (without_secrets(words, self._observer.endpoint) for words in said)
                telemetry.end(failure, self.dimensions, model, reasons)

    def report_cached(self, texts: int, seconds: float) -> None:
        """Report texts whose vectors came from the cache."""
        self._report(
            texts=texts,
            prompt_tokens=0,
            completion_tokens=0,
            cost_usd=0.0,
            seconds=seconds,
            attempts=0,
            cached=True,
        )

    def report(
        self,
        timer: RequestTimer,
        *,
        texts: int = 0,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = 0,
        cost_usd: float | None = None,
        request_id: str | None = None,
        shared: bool = False,
        error: BaseException | str | None = None,
    ) -> None:
        """Report a finished request; nothing if it was never sent.

        The arguments are fields of :class:`RequestRecord`; ``error`` can also be the error that ended the request.
        """
        if not timer.attempts:
            return
        observer, name = self._observer, None
        if error is not None:
            name = error if isinstance(error, str) else error_name(error)
            request_id = request_id or getattr(error, "request_id", None)
            prompt_tokens = completion_tokens = None if timer.uncertain else 0
            cost_usd = None if timer.uncertain else 0.0
        if request_id is not None:
            # A hook, a span or the log shows it. Usage only adds up numbers.
            is_shown = self._context is not None or self._telemetry is not None or logger.isEnabledFor(logging.DEBUG)
            request_id = without_secrets(request_id, observer.endpoint) if is_shown else None
        self._report(
            texts=texts,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost_usd=cost_usd,
            seconds=timer.seconds,
            attempts=timer.attempts,
            uncertain=timer.uncertain,
            request_id=request_id,
            shared=shared,
            error=name,
        )

    def _report(self, **fields: Any) -> None:
        observer = self._observer
        record = RequestRecord(kind=observer.kind, model=self.model, **fields)
        if observer.meter is not None:
            observer.meter.add(record)
        for tracker in self._trackers:
            tracker.add(record)
        telemetry = self._telemetry  # another thread may end the call
        if telemetry is not None:
            telemetry.add(record)
        if logger.isEnabledFor(logging.DEBUG):
            _log(record)
        if observer.hook is not None and self._context is not None:
            with observer.surviving("The hook on_request"):
                # A context cannot be entered twice, and two requests of a call may end at the same time.
                result = self._context.copy().run(observer.hook, record)
                if inspect.iscoroutine(result):
                    result.close()
                    raise InvalidTypeError("on_request returned a coroutine, which is never run: pass a function.")


def _log(record: RequestRecord) -> None:
    parts = [counted(record.texts, "text")] if record.kind == "embeddings" else []
    if record.cached:
        parts.append("from the cache")
    elif record.error is None:
        parts.append(counted(record.prompt_tokens, "token"))
    if record.kind == "chat" and record.error is None:
        parts.append(f"{counted(record.completion_tokens, 'token')} of answer")
    parts.append(f"{record.seconds:.3f} s")
    if record.attempts > 1:
        parts.append(f"{record.attempts} attempts")
    if record.error is not None:
        parts.append(record.error)
    if record.request_id is not None:
        parts.append(f"request {record.request_id}")
    logger.debug("%s %s: %s", record.kind, record.model, ", ".join(parts))
