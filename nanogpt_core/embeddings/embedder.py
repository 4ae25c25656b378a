"""The embedder: one model with its options, and what can be asked of it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sized
from typing import TYPE_CHECKING, Any

from nanogpt_core.cache.base import CacheNamespace, EmbeddingCache
from nanogpt_core.embeddings import config as checks
from nanogpt_core.embeddings.batch import host_limits_for
from nanogpt_core.embeddings.config import Progress, reject_unknown_options
from nanogpt_core.embeddings.dispatch import Dispatcher
from nanogpt_core.embeddings.inputs import check_query, check_texts, iterate_texts
from nanogpt_core.embeddings.output import ArrayOutput, ListOutput
from nanogpt_core.embeddings.pipeline import Pipeline
from nanogpt_core.embeddings.planning import Overflow
from nanogpt_core.embeddings.progress import reporting
from nanogpt_core.embeddings.response import DimensionsCheck
from nanogpt_core.embeddings.stream import EmbeddedBatch, achunked, amap_ordered, chunked, map_ordered
from nanogpt_core.embeddings.usage import Budget, Estimate, Usage, UsageMeter
from nanogpt_core.embeddings.widths import dimensions_mismatch
from nanogpt_core.errors import DimensionsError, InvalidTypeError
from nanogpt_core.http.endpoint import DEFAULT_TIMEOUT, ApiKey, Endpoint, Secret
from nanogpt_core.http.rate_limiter import DEFAULT_RATE, RateLimit, RateLimiter, limiter_for
from nanogpt_core.http.requester import Requester
from nanogpt_core.models.catalog import ModelInfo, get_model
from nanogpt_core.models.tokens import TokenCounter
from nanogpt_core.validation import check_http_client, check_model_name, check_number, check_positive

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Embedder"]

# Sixteen batches under way, with what reading them takes, are about 100 MiB.
_STREAMED = 256


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
        batch_size: Most texts a request, 1 to 2048. Default: at most what the model's hosts are known to accept.
        max_concurrency: Requests in flight at once, at least 1. Where ``batch_size`` is not given, fewer texts than
            fill so many requests are spread over them, 128 texts a request at least.
        requests_per_second: Most attempts to start in a second, over all objects of this process that use the same key
            at the same address; the lowest value counts. When the service grants less, the rate follows it.
        max_retries: Attempts beyond the first that one request may take, at least 0. An attempt that fails for a
            passing reason is followed by another after a random, growing wait, or after the time that the service asks
            for, up to 60 seconds; where it asks for more, the call fails at once.
        timeout: Seconds that one attempt may take in all.
        deadline: Seconds that one call may take in all, with all waits. Default: no limit beyond those of its requests.
        cache: Where to keep vectors, so that no text is paid for twice: a file's path, or any
            :class:`~nanogpt_core.cache.base.EmbeddingCache`. Default: nowhere.
        budget_usd: US dollars that this object may spend; what would go past them is refused before it is sent. A
            failed attempt that may have been billed counts. Default: no limit.
        progress: True for a progress bar, or a function called with (texts done, texts in all). Default: silence.
        default_headers: HTTP headers to send beside the usual ones.
        http_client: An ``httpx.Client`` (``httpx2`` with openai 3.x) to send sync requests with.
        http_async_client: An ``httpx.AsyncClient`` to send async requests with.
        allow_insecure_http: Allow a plain ``http://`` base URL of another machine.

    Raises:
        ConfigurationError: An option that cannot be right, or no key. It is a ``ValueError``.
        InvalidTypeError: An option of the wrong type, or one that does not exist. It is a ``TypeError``.
    """

    @reject_unknown_options
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
        max_concurrency: int = 16,
        requests_per_second: float = DEFAULT_RATE,
        max_retries: int = 5,
        timeout: float = DEFAULT_TIMEOUT,
        deadline: float | None = None,
        cache: str | os.PathLike[str] | EmbeddingCache | None = None,
        budget_usd: float | None = None,
        progress: Progress = None,
        default_headers: Mapping[str, str] | None = None,
        http_client: Any = None,
        http_async_client: Any = None,
        allow_insecure_http: bool = False,
    ) -> None:
        self._model = get_model(check_model_name(model))
        checks.check_dimensions(self._model, dimensions)
        checks.check_batch_size(batch_size)
        check_number("max_concurrency", max_concurrency, 1)
        check_number("max_retries", max_retries, 0)
        check_positive("requests_per_second", requests_per_second)
        check_positive("deadline", deadline, optional=True)
        checks.check_budget(budget_usd, self._model)
        checks.check_choices(on_overflow=on_overflow, query_instruction=query_instruction, user=user, progress=progress)
        check_http_client("http_client", http_client, "Client")
        check_http_client("http_async_client", http_async_client, "AsyncClient")
        self._endpoint = Endpoint.resolve(
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
        self._requests_per_second = requests_per_second
        self._max_retries = max_retries
        self._deadline = deadline
        self._cache = checks.open_cache(cache)
        self._progress = progress
        self._http_clients = (http_client, http_async_client)
        self._meter = UsageMeter(self._model.usd_per_million_tokens)
        self._budget = Budget(budget_usd, self._model.usd_per_million_tokens)
        self._set_up(learned=None)

    def _set_up(self, learned: int | None) -> None:
        self._guard = DimensionsCheck(self._model, self._dimensions, learned)
        self._transport = Requester(self._endpoint, *self._http_clients)
        self._rate_limit = RateLimit(self._requests_per_second)
        self._space = CacheNamespace(self.base_url, self.model, self._dimensions)
        parameters = {"model": self.model, "dimensions": self._dimensions, "user": self._user}
        dispatcher = Dispatcher(
            parameters={name: value for name, value in parameters.items() if value is not None},
            host=host_limits_for(self.base_url, self.model),
            guard=self._guard,
            meter=self._meter,
            budget=self._budget,
            limiter=self._limiter,
            max_retries=self._max_retries,
            timeout=self._endpoint.timeout,
        )
        self._pipeline = Pipeline(
            model=self._model,
            counter=TokenCounter(self._model),
            on_overflow=self._on_overflow,
            dispatcher=dispatcher,
            transport=self._transport,
            space=self._space,
            cache=self._cache,
            batch_size=self._batch_size,
            max_concurrency=self._max_concurrency,
            deadline=self._deadline,
            progress=self._progress,
        )

    def _limiter(self) -> RateLimiter:
        # Asked for each time, since a fork gives a process its own; held, so that it lives as long as this object.
        self._held_limiter = limiter_for(self._endpoint)
        self._held_limiter.join(self._rate_limit)
        return self._held_limiter

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
        assert self._endpoint.key is not None  # noqa: S101 - the constructor resolves a key or raises
        return self._endpoint.key

    @property
    def base_url(self) -> str:
        """Where the API begins."""
        return self._endpoint.base_url

    @property
    def width(self) -> int | None:
        """Floats in a vector; None while neither a source nor a reply has settled it."""
        return self._guard.width

    def check_width(self, stored_width: int) -> None:
        """Check that a vector store of ``stored_width`` floats a vector takes this object's vectors; sends nothing.

        Stores say little or nothing clear about vectors of another width than those they hold. Where the width is not
        known yet, ``stored_width`` becomes the expected one: a reply of another width is an error then.

        Raises:
            ConfigurationError: CacheLookup and model do not fit. It is a ``ValueError``.
            InvalidTypeError: ``stored_width`` is not a whole number.
        """
        check_number("stored_width", stored_width, 1)
        try:
            self._guard.accept(stored_width)
        except DimensionsError as error:
            raise dimensions_mismatch(self._model, self.width, stored_width) from error

    @property
    def cache_namespace(self) -> str:
        """A name for caches outside of this object: equal where the same document text gives the same vector.

        It changes with base URL, model, dimensions and what is done with over-long texts.
        """
        return f"{self.model}-{self._on_overflow}-{self._space.key('').hex()[:16]}"

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
        return self._pipeline.embed(ArrayOutput, check_texts(texts), batch_size)

    def embed_lists(self, texts: Iterable[str], *, batch_size: int | None = None) -> list[list[float]]:
        """Do what :meth:`embed` does, and return a list of d floats for each text.

        That takes ten times the memory and five times the processor's time of a matrix, part of which passes while
        requests are under way.
        """
        return self._pipeline.embed(ListOutput, check_texts(texts), batch_size)

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a query, with ``query_instruction`` around it.

        Args:
            text: The query.

        Returns:
            ``(d,)`` float32.

        Raises:
            NanoGPTError: As :meth:`embed`.
        """
        vector: NDArray[np.float32] = self._pipeline.embed(ArrayOutput, [self._instructed(text)], None, show=False)[0]
        return vector

    async def aembed(self, texts: Iterable[str], *, batch_size: int | None = None) -> NDArray[np.float32]:
        """Do what :meth:`embed` does, without blocking the event loop."""
        return await self._pipeline.aembed(ArrayOutput, check_texts(texts), batch_size)

    async def aembed_lists(self, texts: Iterable[str], *, batch_size: int | None = None) -> list[list[float]]:
        """Do what :meth:`embed_lists` does, without blocking the event loop."""
        return await self._pipeline.aembed(ListOutput, check_texts(texts), batch_size)

    async def aembed_query(self, text: str) -> NDArray[np.float32]:
        """Do what :meth:`embed_query` does, without blocking the event loop."""
        vector: NDArray[np.float32] = (
            await self._pipeline.aembed(ArrayOutput, [self._instructed(text)], None, show=False)
        )[0]
        return vector

    def stream(self, texts: Iterable[str], *, batch_size: int | None = None) -> Iterator[EmbeddedBatch]:
        """Embed any number of documents, in constant memory.

        Batches come in order, each as soon as it and those before it are there. ``max_concurrency`` of them are under
        way at once, and ``texts`` is read no further than that. Repeated texts are sent once a batch; a cache
        makes that once in all. ``deadline`` holds for each batch.

        Args:
            texts: Any iterable, endless ones too.
            batch_size: Texts a batch, 1 to 2048. Default: as in :meth:`embed`, but 256 at most, for the memory's sake.

        Yields:
            The batches.

        Raises:
            NanoGPTError: As :meth:`embed`; positions are those in the whole stream.
        """
        most, stop = self._streamed(batch_size), threading.Event()
        row = chunked(iterate_texts(texts), most)
        return self._reported(
            map_ordered(row, lambda block: self._batch(block, stop), self._max_concurrency, stop), texts
        )

    async def astream(
        self, texts: Iterable[str] | AsyncIterable[str], *, batch_size: int | None = None
    ) -> AsyncIterator[EmbeddedBatch]:
        """Do what :meth:`stream` does, without blocking the event loop; ``texts`` may be asynchronous too."""
        most, turn = self._streamed(batch_size), asyncio.Lock()
        row = achunked(texts if isinstance(texts, AsyncIterable) else iterate_texts(texts), most)
        batches = amap_ordered(row, lambda block: self._abatch(block, turn), self._max_concurrency)
        with reporting(self._progress, _length(texts)) as report:
            async with contextlib.aclosing(batches):
                async for batch in batches:
                    report(len(batch.texts))
                    yield batch

    def _reported(self, batches: Iterator[EmbeddedBatch], texts: Iterable[str]) -> Iterator[EmbeddedBatch]:
        with reporting(self._progress, _length(texts)) as report:
            for batch in batches:
                report(len(batch.texts))
                yield batch

    def _batch(self, block: tuple[int, list[str]], stop: threading.Event) -> EmbeddedBatch:
        first, texts = block
        texts = check_texts(texts, first)
        return EmbeddedBatch(
            first, texts, self._pipeline.embed(ArrayOutput, texts, len(texts), show=False, first=first, stop=stop)
        )

    async def _abatch(self, block: tuple[int, list[str]], turn: asyncio.Lock) -> EmbeddedBatch:
        first, texts = block
        texts = check_texts(texts, first)
        vectors = await self._pipeline.aembed(ArrayOutput, texts, len(texts), show=False, first=first, turn=turn)
        return EmbeddedBatch(first, texts, vectors)

    def estimate(self, texts: Iterable[str]) -> Estimate:
        """Say what embedding ``texts`` would take, without sending anything.

        Raises:
            InvalidInputError: As :meth:`embed`.
            InvalidTypeError: As :meth:`embed`.
        """
        return self._pipeline.estimate(check_texts(texts))

    def _instructed(self, text: str) -> str:
        query = check_query(text)
        instruction = self._query_instruction
        if instruction == "recommended":
            instruction = self._model.query_instruction
        if not instruction:
            return query
        return instruction.replace("{query}", query) if "{query}" in instruction else instruction + query

    def _streamed(self, batch_size: int | None) -> int:
        checks.check_batch_size(batch_size)
        return batch_size or self._batch_size or min(self._model.batch_size, _STREAMED)

    def __repr__(self) -> str:
        if "_pipeline" not in self.__dict__:
            return f"<{type(self).__name__}, not made>"  # a debugger may ask while the constructor fails
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
        made = ("_guard", "_transport", "_rate_limit", "_held_limiter", "_space", "_pipeline")
        settings = {name: value for name, value in self.__dict__.items() if name not in made}
        return {**settings, "learned": self._guard.learned}

    def __copy__(self) -> Embedder:
        twin = type(self).__new__(type(self))
        # What is spent is counted for each object by itself.
        fresh = {"_meter": copy.copy(self._meter), "_budget": copy.copy(self._budget)}
        twin.__setstate__({**self._settings(), **fresh})
        return twin

    def __deepcopy__(self, memo: object) -> Embedder:
        return copy.copy(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        settings = dict(state)
        learned = settings.pop("learned")
        self.__dict__.update(settings)
        self._set_up(learned)


def _length(texts: object) -> int | None:
    return len(texts) if isinstance(texts, Sized) else None
