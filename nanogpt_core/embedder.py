"""The embedder: plans what to send, has it sent, accepts what comes back, and answers in the caller's order."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from nanogpt_core import options as checks
from nanogpt_core.catalogue import ModelInfo, get_model
from nanogpt_core.connection import DEFAULT_TIMEOUT, ApiKey, Connection, Secret
from nanogpt_core.delivery import Delivery, Job, adrive, drive
from nanogpt_core.errors import InvalidTypeError
from nanogpt_core.options import Progress, clear_options
from nanogpt_core.planning import Overflow, Plan, check_query, check_texts, make_plan, pack
from nanogpt_core.progress import reporting
from nanogpt_core.reply import Reply, WidthGuard
from nanogpt_core.tokens import TokenCounter
from nanogpt_core.transport import Transport
from nanogpt_core.usage import Estimate, Usage, UsageMeter, price

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Embedder"]

# Planning fewer texts than this takes less time than handing it to a thread.
_PLAN_IN_LOOP = 200


class Embedder:
    """Embeds texts with one model. Safe to share between threads and event loops; pickles and copies.

    Args:
        model: The model's name. Unknown names work; their width is learned from the first reply.
        api_key: The key, as text or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        base_url: Where the API begins. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        dimensions: Width to reduce the vectors to, for models that reduce. Default: the model's full width.
        user: An identifier that the service keeps with the usage. Default: none.
        on_overflow: What to do with a text that is over the model's token limit: ``"error"`` (default) raises before
            anything is sent, ``"truncate"`` embeds its beginning, ``"split"`` embeds it in pieces and returns their
            mean, weighted by tokens and scaled to length 1.
        query_instruction: What to put before queries (never before documents): None (default) for nothing,
            ``"recommended"`` for what the model's card recommends, or a string. ``{query}`` in it is where the query
            goes; without that the query goes at its end.
        batch_size: Most texts a request, 1 to 2048. Default: what the model's hosts are known to accept.
        max_concurrency: Requests in flight at once, at least 1.
        max_retries: Attempts beyond the first that one request may take, at least 0.
        timeout: Seconds that one attempt may take.
        progress: True for a progress bar, or a function called with (texts done, texts in all). Default: silence.
        default_headers: HTTP headers to send beside the usual ones.
        http_client: An ``httpx.Client`` (``httpx2`` with openai 3.x) to send sync requests with.
        http_async_client: An ``httpx.AsyncClient`` to send async requests with.
        allow_insecure_http: Allow a plain ``http://`` base URL of another machine.

    Raises:
        ConfigurationError: An option that cannot be right, or no key. It is a ``ValueError``.
        InvalidTypeError: An option of the wrong type, or one that does not exist. It is a ``TypeError``.
    """

    @clear_options
    def __init__(
        self,
        model: str = "text-embedding-3-small",
        *,
        api_key: ApiKey = None,
        base_url: str | None = None,
        dimensions: int | None = None,
        user: str | None = None,
        on_overflow: Overflow = "error",
        query_instruction: str | None = None,
        batch_size: int | None = None,
        max_concurrency: int = 8,
        max_retries: int = 5,
        timeout: float = DEFAULT_TIMEOUT,
        progress: Progress = None,
        default_headers: Mapping[str, str] | None = None,
        http_client: Any = None,
        http_async_client: Any = None,
        allow_insecure_http: bool = False,
    ) -> None:
        self._model = get_model(checks.check_model_name(model))
        checks.check_dimensions(self._model, dimensions)
        checks.check_batch_size(batch_size)
        checks.check_number("max_concurrency", max_concurrency, 1)
        checks.check_number("max_retries", max_retries, 0)
        checks.check_choices(on_overflow=on_overflow, query_instruction=query_instruction, user=user, progress=progress)
        self._connection = Connection.resolve(
            api_key=api_key,
            base_url=base_url,
            timeout=timeout,
            headers=default_headers,
            allow_insecure_http=allow_insecure_http,
        )
        self._dimensions = dimensions
        self._user = user
        self._on_overflow: Overflow = on_overflow
        self._query_instruction = query_instruction
        self._batch_size = batch_size
        self._max_concurrency = max_concurrency
        self._max_retries = max_retries
        self._progress = progress
        self._http_clients = (http_client, http_async_client)
        self._allow_insecure_http = allow_insecure_http
        self._set_up(learned=None)

    def _set_up(self, learned: int | None) -> None:
        self._counter = TokenCounter(self._model)
        self._guard = WidthGuard(self._model, self._dimensions, learned)
        self._meter = UsageMeter(self._model.usd_per_million_tokens)
        self._transport = Transport(self._connection, *self._http_clients)
        self._delivery = Delivery(
            model=self._model.id,
            dimensions=self._dimensions,
            user=self._user,
            guard=self._guard,
            meter=self._meter,
            max_retries=self._max_retries,
        )

    @property
    def model(self) -> str:
        """The model's name."""
        return self._model.id

    @property
    def model_info(self) -> ModelInfo:
        """What is known about the model."""
        return self._model

    @property
    def api_key(self) -> Secret:
        """The key, hidden; its ``get_secret_value()`` returns it."""
        assert self._connection.key is not None  # noqa: S101 - the constructor resolves a key or raises
        return self._connection.key

    @property
    def base_url(self) -> str:
        """Where the API begins."""
        return self._connection.base_url

    @property
    def width(self) -> int | None:
        """Floats in a vector; None while neither a source nor a reply has settled it."""
        return self._guard.width

    @property
    def usage(self) -> Usage:
        """What this object has spent so far: a snapshot. A copy of the object starts at nothing."""
        return self._meter.snapshot()

    def embed(self, texts: Iterable[str], *, batch_size: int | None = None) -> NDArray[np.float32]:
        """Embed documents.

        Args:
            texts: The texts. Repeated ones are sent once.
            batch_size: Most texts a request, for this call alone.

        Returns:
            ``(n, d)`` float32, a row for each text, in order. ``(0, d)`` for no texts, with d = 0 where the width is
            not known yet.

        Raises:
            InvalidInputError: A text is empty, blank, not encodable or too long; ``.positions`` says which. Nothing
                was sent.
            InvalidTypeError: Something is not a string. Nothing was sent.
            NanoGPTError: The service could not be reached, refused, or sent a reply that is not right.
        """
        return self._embed(check_texts(texts), batch_size)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a query, with ``query_instruction`` around it.

        Args:
            text: The query.

        Returns:
            ``(d,)`` float32.

        Raises:
            NanoGPTError: As :meth:`embed`.
        """
        vector: NDArray[np.float32] = self._embed([self._instructed(text)], None, show=False)[0]
        return vector

    async def aembed(self, texts: Iterable[str], *, batch_size: int | None = None) -> NDArray[np.float32]:
        """Do what :meth:`embed` does, without blocking the event loop."""
        return await self._aembed(check_texts(texts), batch_size)

    async def aembed_query(self, text: str) -> NDArray[np.float32]:
        """Do what :meth:`embed_query` does, without blocking the event loop."""
        vector: NDArray[np.float32] = (await self._aembed([self._instructed(text)], None, show=False))[0]
        return vector

    def estimate(self, texts: Iterable[str]) -> Estimate:
        """Say what embedding ``texts`` would take, without sending anything.

        Raises:
            InvalidInputError: As :meth:`embed`.
            InvalidTypeError: As :meth:`embed`.
        """
        checked = check_texts(texts)
        plan = make_plan(checked, self._counter, self._on_overflow)
        tokens = self._counter.count_all(plan.wire)
        return Estimate(
            texts=len(checked),
            unique=len(set(checked)),
            cached=0,
            tokens=tokens,
            cost_usd=price(tokens, self._model.usd_per_million_tokens),
            requests=len(self._jobs(plan, None)),
            counting=self._counter.kind,
        )

    def _instructed(self, text: str) -> str:
        query = check_query(text)
        instruction = self._query_instruction
        if instruction == "recommended":
            instruction = self._model.query_instruction
        if not instruction:
            return query
        return instruction.replace("{query}", query) if "{query}" in instruction else instruction + query

    def _embed(self, texts: list[str], batch_size: int | None, *, show: bool = True) -> NDArray[np.float32]:
        checks.check_batch_size(batch_size)
        plan = make_plan(texts, self._counter, self._on_overflow)
        with self._run(plan, show=show) as run:
            jobs = self._jobs(plan, batch_size)
            _in_threads([self._task(job, run) for job in jobs], self._max_concurrency)
            return run.result()

    async def _aembed(self, texts: list[str], batch_size: int | None, *, show: bool = True) -> NDArray[np.float32]:
        checks.check_batch_size(batch_size)
        if len(texts) < _PLAN_IN_LOOP:
            plan = make_plan(texts, self._counter, self._on_overflow)
        else:
            plan = await asyncio.to_thread(make_plan, texts, self._counter, self._on_overflow)
        with self._run(plan, show=show) as run:
            await self._in_tasks(self._jobs(plan, batch_size), run)
            return run.result()

    def _jobs(self, plan: Plan, batch_size: int | None) -> list[Job]:
        most = batch_size or self._batch_size or self._model.batch_size
        return [
            Job(plan.wire[part.start : part.stop], part, plan.positions[part.start : part.stop])
            for part in pack(plan.weights, most, self._model.max_request_tokens)
        ]

    @contextlib.contextmanager
    def _run(self, plan: Plan, *, show: bool) -> Iterator[_Run]:
        with reporting(self._progress if show else None, plan.texts) as report:
            yield _Run(plan, self._guard, report)

    def _task(self, job: Job, run: _Run) -> Callable[[], None]:
        return lambda: drive(self._delivery.deliver(job, run.accept), self._transport)

    async def _in_tasks(self, jobs: Sequence[Job], run: _Run) -> None:
        waiting = iter(jobs)

        async def work() -> None:
            for job in waiting:
                await adrive(self._delivery.deliver(job, run.accept), self._transport)

        tasks = [asyncio.ensure_future(work()) for _ in range(min(self._max_concurrency, len(jobs)))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def __repr__(self) -> str:
        reduced = f", dimensions={self._dimensions}" if self._dimensions is not None else ""
        return f"{type(self).__name__}(model={self.model!r}{reduced}, base_url={self.base_url!r})"

    def __getstate__(self) -> dict[str, Any]:
        if any(self._http_clients):
            raise InvalidTypeError(
                "An object with http_client or http_async_client cannot be pickled.",
                remedy="Connections do not travel; make it anew where it is needed.",
            )
        return self._settings()

    def _settings(self) -> dict[str, Any]:
        made = ("_counter", "_guard", "_meter", "_transport", "_delivery")
        settings = {name: value for name, value in self.__dict__.items() if name not in made}
        return {**settings, "learned": self._guard.learned}

    def __copy__(self) -> Embedder:
        twin = type(self).__new__(type(self))
        twin.__setstate__(self._settings())
        return twin

    def __deepcopy__(self, memo: object) -> Embedder:
        return copy.copy(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        learned = state.pop("learned")
        self.__dict__.update(state)
        self._set_up(learned)


class _Run:
    """What one call has got so far: the wire texts' vectors, and how many of the caller's texts they answer."""

    def __init__(self, plan: Plan, guard: WidthGuard, report: Callable[[int], object]) -> None:
        self._plan = plan
        self._guard = guard
        self._report = report
        self._counts = plan.counts()
        self._vectors: NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    def accept(self, job: Job, reply: Reply) -> None:
        """Take the vectors of one request."""
        import numpy as np  # imported with the first reply

        with self._lock:
            if self._vectors is None:
                self._vectors = np.empty((len(self._plan.wire), reply.vectors.shape[1]), dtype=np.float32)
        first, last = job.rows[0], job.rows[-1]
        self._vectors[first : last + 1] = reply.vectors
        with self._lock:
            self._report(sum(self._counts[first : last + 1]))

    def result(self) -> NDArray[np.float32]:
        """Return the vectors in the caller's order."""
        import numpy as np  # see above

        if self._vectors is None:
            return np.empty((0, self._guard.width or 0), dtype=np.float32)
        return self._plan.assemble(self._vectors)


def _in_threads(tasks: Sequence[Callable[[], None]], most: int) -> None:
    if len(tasks) < 2 or most == 1:  # noqa: PLR2004
        for task in tasks:
            task()
        return
    executor = ThreadPoolExecutor(min(most, len(tasks)), thread_name_prefix="nanogpt")
    try:
        futures = [executor.submit(task) for task in tasks]
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    for future in futures:
        if not future.cancelled():
            future.result()
