"""Sends one batch: rate limiting, retries and splitting, without doing any I/O itself.

:meth:`Dispatcher.dispatch` is a generator; :mod:`~nanogpt_core.http.runner` performs the actions that it yields.
So sync and async share every decision.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from nanogpt_core._runtime.clock import Cancellation, now
from nanogpt_core._runtime.log import logger
from nanogpt_core.embeddings.config import EmbedderConfig
from nanogpt_core.embeddings.planning import Batch, Overflow, host_capabilities_for, is_only_text, weighted_mean
from nanogpt_core.embeddings.response import DimensionsCheck, EmbeddingResponse, parse_embeddings
from nanogpt_core.embeddings.results import ResultCollector
from nanogpt_core.errors import (
    BadRequestError,
    ModelNotFoundError,
    NanoGPTError,
    RequestTimeoutError,
    RequestTooLargeError,
    StatusError,
    TextTooLongError,
)
from nanogpt_core.http.client import MAX_LIST_BYTES, HttpReply, HttpRequest
from nanogpt_core.http.limits import Admission, Cost, Outcome, SharedLimits
from nanogpt_core.http.retry import may_be_billed, send_with_retries, wait_for_start
from nanogpt_core.http.runner import Join, Run, Wait, Yield
from nanogpt_core.http.text_errors import add_position, named_position
from nanogpt_core.models.catalog import near_names
from nanogpt_core.models.listing import parse_model_list
from nanogpt_core.models.pricing import price
from nanogpt_core.observability.observer import CallObserver, RequestTimer

T = TypeVar("T")

Action = HttpRequest | Wait | Run | Yield | Join
Steps = Generator[Action, HttpReply, T]
"""A generator that yields actions and receives replies; it returns a ``T``."""

# Maximum size of a reply: so many bytes for each number of a vector, in base64 or in digits, and for everything else.
# A line for each number, indented by four blanks in each level, takes up to 43.
_BYTES_PER_NUMBER = 48
_BYTES_BESIDE_NUMBERS = 1 << 20
_ASSUMED_DIMENSIONS = 8192  # as long as the dimensions are not known; more than any model in the catalog has

# The encoding to ask for after one that the host refuses. None leaves the field out: some hosts do not know it.
_NEXT_ENCODINGS: dict[str, str | None] = {"base64": "float", "float": None}

# Halvings of a text that the host still refuses as too long. Estimates of tokens are at most three times too low.
_MAX_HALVINGS = 4


@dataclass(frozen=True, slots=True)
class Call:
    """The parts of one call of an embedder that its batches share.

    ``on_response`` gets each batch with its response, before the call itself takes the vectors.
    """

    results: ResultCollector
    cancellation: Cancellation
    observer: CallObserver
    on_response: Callable[[Batch, EmbeddingResponse], None] | None = None

    def accept(self, batch: Batch, response: EmbeddingResponse, *, may_cache: bool = True) -> Iterator[Yield | Run]:
        """Take the vectors of one batch, after the other calls that wait for them: progress may raise."""
        if self.on_response is not None:
            self.on_response(batch, response)
        yield from self.results.accept(batch, response, may_cache=may_cache)


class Dispatcher:
    """Sends batches for one embedder.

    Attributes:
        limits: Rate and budget: those of the process, or the option ``limits``.
        parameters: Fields of each request beside the texts and the encoding: ``model``, ``dimensions``, ``user``.
    """

    def __init__(self, config: EmbedderConfig, dimensions_check: DimensionsCheck, limits: SharedLimits) -> None:
        model = config.model_row
        self.config = config
        self.host_capabilities = host_capabilities_for(config.endpoint.base_url, model.id)
        fields = {"model": model.id, "dimensions": config.dimensions, "user": config.user}
        self.parameters: dict[str, Any] = {name: value for name, value in fields.items() if value is not None}
        self.usd_per_million_tokens = model.usd_per_million_tokens
        self._dimensions_check = dimensions_check
        self.limits = limits
        self._timeout = config.endpoint.timeout

    def dispatch(self, batch: Batch, call: Call, admission: Admission | None = None) -> Steps[None]:
        """Send ``batch`` until the call's results have all its vectors; in parts if the host refuses it as too large.

        With a confirmed ``admission``, the first attempt starts at once.

        Raises:
            NanoGPTError: The batch cannot be answered.
        """
        parts, accepted, refused = [batch], list[Batch](), list[Batch]()
        while parts:
            part = parts.pop()
            if self.host_capabilities.is_limited:  # another request can have shown it since the batch was made
                part, *others = self.host_capabilities.split(part)
                parts += others[::-1]
            first_admission, admission = admission, None
            try:
                yield from self._send_and_report(part, call, first_admission)
            except RequestTooLargeError as error:
                if len(part.texts) > 1:
                    logger.info("The host refused a batch of %d texts as too large: dividing it", len(part.texts))
                    refused.append(part)
                    parts += part.halves()[::-1]
                    continue
                response = yield from self._shorten(part, call, error, _MAX_HALVINGS)
                refused = [one for one in refused if part.texts[0] not in one.texts]  # the text was the reason
                # Not cached, because it depends on on_overflow.
                yield from call.accept(part, response, may_cache=False)
            accepted.append(part)
        if refused:
            # Learned only now: a refusal can also concern a single text, which then ends the call or is shortened.
            smallest, largest = min(refused, key=_text_count), max(accepted, key=_text_count)
            self.host_capabilities.learn(smallest, largest)

    def _shorten(
        self, batch: Batch, call: Call, error: RequestTooLargeError, halvings: int
    ) -> Steps[EmbeddingResponse]:
        """Truncate or split the single text of a batch further: its local count was an estimate."""
        halves = _split_text(batch) if halvings else []
        mode = self.config.on_overflow
        if mode == "error" or len(halves) < 2:  # noqa: PLR2004
            is_only = is_only_text(call.results.plan.text_positions)
            raise text_too_long(error, batch.positions[0], mode, is_only=is_only) from error
        verb = "truncating" if mode == "truncate" else "splitting"
        logger.info("The host refused the text at position %d as too long: %s it", batch.positions[0], verb)
        responses = []
        for half in halves[:1] if mode == "truncate" else halves:
            try:
                response = yield from self._send_and_report(half, call, collects=False)
            except RequestTooLargeError as again:
                response = yield from self._shorten(half, call, again, halvings - 1)
            responses.append(response)
        if len(responses) == 1:
            return responses[0]
        vectors = weighted_mean(
            [response.vectors[0] for response in responses], [len(half.texts[0]) for half in halves]
        )
        return EmbeddingResponse(vectors[None], None, responses[0].model)

    def _send_and_report(
        self, batch: Batch, call: Call, admission: Admission | None = None, *, collects: bool = True
    ) -> Steps[EmbeddingResponse]:
        """Send a batch in one request, with retries, and report it. The call takes the vectors if it ``collects`` them.

        The report comes last: Ctrl-C in a hook must lose no vectors.
        """
        timer = RequestTimer()
        try:
            response = yield from self.send_with_encoding(
                partial(self._attempt, batch, call, timer, call.results if collects else None),
                call.cancellation,
                self.cost(batch) if admission is None else admission.cost,
                admission,
            )
        except BaseException as error:
            _name_position(error, batch)
            call.observer.report(timer, texts=len(batch.texts), error=error)
            raise
        timer.ended = now()
        try:
            if collects:
                yield from call.accept(batch, response)
        finally:
            call.observer.report(
                timer,
                texts=len(batch.texts),
                prompt_tokens=response.prompt_tokens,
                cost_usd=response.cost_usd,
                request_id=response.request_id,
            )
        return response

    def _attempt(
        self, batch: Batch, call: Call, timer: RequestTimer, into: ResultCollector | None, admission: Admission
    ) -> Steps[EmbeddingResponse]:
        """Make one attempt at a request, and settle its cost."""
        timer.attempts += 1
        try:
            response = yield from self.request_once(batch, call.cancellation, call.observer, into)
            yield from self.check_dimensions(response, call.cancellation, call.observer)
        except BaseException as error:
            outcome = failed_outcome(error)
            timer.uncertain += outcome.usd is None
            self.limits.settle(admission, outcome)
            raise
        self.limits.settle(admission, Outcome(response.cost_usd, response.prompt_tokens, answered=True))
        return response

    def send_with_encoding(
        self,
        attempt: Callable[[Admission], Steps[EmbeddingResponse]],
        cancellation: Cancellation,
        cost: Cost,
        admission: Admission | None,
        may_retry: Callable[[NanoGPTError], bool] = lambda _: True,
    ) -> Steps[EmbeddingResponse]:
        """Send one request with retries, as :func:`~nanogpt_core.http.retry.send_with_retries` does.

        If the host refuses base64, ask for float lists, or for no encoding.
        """
        while True:
            encoding = self.host_capabilities.encoding
            try:
                return (
                    yield from send_with_retries(
                        attempt,
                        limits=self.limits,
                        max_retries=self.config.max_retries,
                        cancellation=cancellation,
                        cost=cost,
                        admission=admission,
                        may_retry=may_retry,
                    )
                )
            except BadRequestError as error:
                if encoding is None or not _refuses_encoding(error, encoding):
                    raise
                self.host_capabilities.encoding, admission = _NEXT_ENCODINGS[encoding], None
            except ModelNotFoundError as error:
                _suggest_names(error, self.parameters["model"])
                raise

    def cost(self, *batches: Batch) -> Cost:
        """Return the expected cost of one attempt at each of the batches."""
        tokens = sum(sum(batch.tokens) for batch in batches)
        texts = sum(len(batch.texts) for batch in batches)
        usd = price(tokens, self.usd_per_million_tokens) or 0.0
        return Cost(self.parameters["model"], texts, tokens, usd, self._timeout)

    def request_once(
        self, batch: Batch, cancellation: Cancellation, observer: CallObserver, into: ResultCollector | None = None
    ) -> Steps[EmbeddingResponse]:
        """Send ``batch`` once, and parse the reply.

        ``into`` gives memory for the vectors, so that they need not be copied.
        """
        import orjson

        encoding = self.host_capabilities.encoding
        parameters = self.parameters if encoding is None else {"encoding_format": encoding, **self.parameters}
        body = orjson.dumps({"input": list(batch.texts), **parameters})
        numbers = len(batch.texts) * (self._dimensions_check.dimensions or _ASSUMED_DIMENSIONS)
        max_bytes = _BYTES_BESIDE_NUMBERS + numbers * _BYTES_PER_NUMBER
        try:
            seconds = cancellation.remaining(self._timeout)
        except RequestTimeoutError as error:
            error.unsent = True
            raise
        try:
            with observer.sending():
                reply = yield HttpRequest("/embeddings", body, seconds, max_bytes)
        except RequestTimeoutError as error:
            if seconds < self._timeout and cancellation.is_late:
                error.message = f"The call's deadline has passed. {error.message}"
                error.remedy = "Raise deadline, or embed fewer texts at a time."
            raise
        out = None if into is None else into.out(batch)
        return parse_embeddings(reply.body, len(batch.texts), out, reply.request_id, self.usd_per_million_tokens)

    def check_dimensions(
        self, response: EmbeddingResponse, cancellation: Cancellation, observer: CallObserver
    ) -> Steps[None]:
        """Compare the dimensions of a response; if they differ, ask the live list once, or raise a DimensionsError."""
        dimensions = response.vectors.shape[1]
        check = self._dimensions_check
        if not check.allows(dimensions) and check.needs_live_list:
            # The catalog may be out of date; the service's own list decides.
            check.add_source((yield from self._listed_dimensions(cancellation, observer)))
        check.accept(dimensions)
        observer.dimensions = dimensions

    def _listed_dimensions(self, cancellation: Cancellation, observer: CallObserver) -> Steps[int | None]:
        yield from wait_for_start(self.limits, cancellation)
        try:
            with observer.sending():
                timeout = cancellation.remaining(self._timeout)
                reply = yield HttpRequest("/embedding-models", None, timeout, MAX_LIST_BYTES)
            row = parse_model_list(reply.body).get(self.parameters["model"])
        except NanoGPTError:
            return None
        return row.dimensions if row else None


def _text_count(batch: Batch) -> int:
    return len(batch.texts)


def failed_outcome(error: BaseException) -> Outcome:
    """Return the outcome of an attempt that failed."""
    return Outcome(None if may_be_billed(error) else 0.0, error=type(error).__name__)


def _split_text(batch: Batch) -> list[Batch]:
    """Return the single text of a batch in two parts, divided at a blank if there is one near the middle."""
    text, tokens = batch.texts[0], sum(batch.tokens)
    middle = len(text) // 2
    blank = next((index for index in range(middle, middle - middle // 4, -1) if text[index].isspace()), None)
    cut = middle if blank is None else blank + 1
    parts = [part for part in (text[:cut], text[cut:]) if part.strip()]
    return [Batch([part], batch.request_indices, batch.positions, [tokens // 2]) for part in parts]


def _refuses_encoding(error: BadRequestError, encoding: str) -> bool:
    words = f"{error.detail} {error.code} {error.param}".lower()
    return error.status in (400, 422) and ("encoding_format" in words or (encoding == "base64" and "base64" in words))


def _name_position(error: BaseException, batch: Batch) -> None:
    """Add to an error the caller's position of a text that the service names by its position in the request."""
    index = named_position(error, len(batch.texts))
    if isinstance(error, StatusError) and index is not None:
        add_position(error, index, batch.positions[index])


def _suggest_names(error: ModelNotFoundError, model: str) -> None:
    near = [name for name in near_names(model) if name != model]
    if near and not error.wrong_base_url:
        error.remedy = f"Did you mean {' or '.join(near)}? list_models() returns all models."


def text_too_long(
    error: RequestTooLargeError, position: int, on_overflow: Overflow = "error", *, is_only: bool
) -> TextTooLongError:
    """Return the error for a text that the service refuses as too long, although it fits by the local count.

    The only text of a call needs no position.
    """
    place = "" if is_only else f" at position {position}"
    remedy = 'Shorten it, or pass on_overflow="truncate" or on_overflow="split".'
    return TextTooLongError(
        f"The service refuses the text{place} as too long: {error.detail.rstrip('.') or error.status}.",
        remedy=remedy if on_overflow == "error" else "Shorten it; a sixteenth of it was refused too.",
        positions=[position],
    )
