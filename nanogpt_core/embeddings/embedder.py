"""``Embedder``: the public class for embeddings without a framework."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence, Sized
from typing import TYPE_CHECKING, Any

from nanogpt_core._runtime.validation import check_attribute, check_number, check_option_names, fixed_option_error
from nanogpt_core._runtime.workers import require_event_loop
from nanogpt_core.embeddings.config import OPTION_ALIASES, EmbedderConfig, EmbedderOptions
from nanogpt_core.embeddings.inputs import check_text, check_texts, iterate_texts
from nanogpt_core.embeddings.pipeline import Estimate, Pipeline
from nanogpt_core.embeddings.stream import Chunk, EmbeddedBatch, achunked, astream_chunks, chunked, stream_chunks
from nanogpt_core.errors import InvalidTypeError
from nanogpt_core.http.client import Closeable
from nanogpt_core.http.limits import Budget
from nanogpt_core.http.secrets import Secret, hide_secrets
from nanogpt_core.models.catalog import MAX_ITEMS, ModelInfo
from nanogpt_core.observability.usage import Usage, UsageMeter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Unpack

# 16 batches in flight of this size, with the memory for parsing them, take about 100 MiB.
_MAX_TEXTS_PER_STREAMED_BATCH = 256


class Embedder(Closeable):
    """Embeds texts with one model. Thread-safe; works on any event loop of asyncio; can be copied and pickled.

    A pickle holds no key: reading it back takes the key from the environment. Use the object in ``with`` or
    ``async with``, or call :meth:`close` or :meth:`aclose` at the end. Without that, connections stay open until the
    process ends, or for async calls until the event loop shuts down.

    Args:
        model: Name of the model, or a row of :func:`nanogpt_core.list_models`. Unknown names work: their dimensions are
            learned from the first reply. Default: ``"text-embedding-3-small"``.
        api_key: The key, a ``str`` or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        base_url: Base URL of the API. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        model_info: Source of the model's price, token limit and dimensions, and so of estimates and budgets: ``"live"``
            for the service's list, which is fetched when the object is made, once in a process for each key and base
            URL, or a ``ModelInfo``. In an event loop, make the object in a thread: fetching blocks. Default: the
            packaged catalog.
        dimensions: Reduce the vectors to this number of dimensions, for models that support it. Default: the model's
            full dimensions.
        user: Identifier that is sent with each request, for tracking usage. Default: none.
        on_overflow: Treatment of a text over the model's token limit: ``"error"`` (default) raises before anything is
            sent, ``"truncate"`` embeds its beginning, ``"split"`` embeds it in pieces and returns their mean, weighted
            by tokens and scaled to length 1.
        query_instruction: Text to put around queries, never around documents: None (default) for nothing,
            ``"recommended"`` for the one on the model's card, or a string. The query replaces ``{query}`` in it, or is
            appended if there is no ``{query}``.
        batch_size: Maximum number of texts in a request, 1 to 2048. Default: automatic, 128 up to the model's limit:
            the texts of a call are spread over ``max_concurrency`` requests of at least 128 texts, or of the number
            that the model's hosts accept if that is lower.
        max_concurrency: Maximum number of requests of one call in flight, at least 1. Default: 16.
        coalesce: Let small calls that have to wait for a free slot or for the rate limit share a request: calls of all
            threads, tasks and objects of this process that use the same options. Usage, budgets, deadlines and errors
            stay those of each call. With ``limits``, a shared request takes one reservation. Default: True.
        requests_per_second: Maximum number of attempts to start in a second, over all open objects of this process
            that use the same key and base URL; the lowest value that is set counts. If the service grants less, the
            rate follows it. Default: begins at the documented rate, 25, and follows the service, up to 100.
        max_retries: Attempts after the first, for one request, at least 0. Default: 5. An attempt that fails for a
            temporary reason is repeated after a random, growing delay, or after the delay that the service asks for if
            that is at most 60 seconds; if it is longer, the call fails at once.
        timeout: Seconds that one attempt may take in total. Default: 60.
        deadline: Seconds that one call may take in total, including all waits. Default: no limit.
        cache: Path of a SQLite file, or any :class:`nanogpt_core.EmbeddingCache`, that keeps all vectors, so that no
            text is paid for twice. Default: no cache.
        budget_usd: US dollars that this object may spend. A request that would exceed it is not sent. A failed attempt
            that may have been billed counts. Default: no limit.
        limits: Limits that several processes share, such as :class:`nanogpt_core.RedisLimits`, in place of
            ``requests_per_second`` and ``budget_usd``. Default: the limits of this process.
        progress: True for a progress bar, or a function of (texts done, texts in total). Default: none.
        on_request: A function that gets a :class:`nanogpt_core.RequestRecord` of each finished request: model, texts,
            tokens, cost, seconds, attempts. Its errors are logged, and do not end a call. Default: none.
        default_headers: HTTP headers to send with each request. Default: none.
        http_client: An ``httpx.Client`` (``httpx2`` with openai 3.x) for sync requests. Default: none; then objects of
            this process share connections.
        http_async_client: An ``httpx.AsyncClient`` for async requests. Default: none.
        allow_insecure_http: Allow a base URL with plain ``http://`` that is not on this machine. Default: False.

    Raises:
        ConfigurationError: An invalid option, or no key. It is a ``ValueError``.
        InvalidTypeError: An option of the wrong type, or an unknown option. It is a ``TypeError``.
    """

    def __init__(self, model: str | ModelInfo = "text-embedding-3-small", **options: Unpack[EmbedderOptions]) -> None:
        options = hide_secrets(options)  # type: ignore[assignment]
        check_option_names(options, ["model", *EmbedderOptions.__annotations__], OPTION_ALIASES)
        self._config = EmbedderConfig(model=model, **options)
        self._meter = UsageMeter()
        self._budget = None if self._config.budget_usd is None else Budget(self._config.budget_usd)
        self._pipeline = Pipeline(self._config, self._meter, self._budget)

    # Signature and help show every option with its default.
    __init__.__signature__ = inspect.signature(EmbedderConfig.__init__)  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: object) -> None:
        if name == "model" or name in EmbedderOptions.__annotations__:
            raise fixed_option_error(name)
        if type(self) is Embedder:  # a subclass may have attributes of its own
            check_attribute(Embedder, name, EmbedderOptions.__annotations__, OPTION_ALIASES)
        super().__setattr__(name, value)

    @property
    def model(self) -> str:
        """Name of the model."""
        return self._config.model_row.id

    @property
    def model_info(self) -> ModelInfo:
        """Facts about the model: price, limits, dimensions."""
        return self._config.model_row

    @property
    def api_key(self) -> Secret:
        """The key, hidden; its ``get_secret_value()`` returns it."""
        key = self._config.endpoint.key
        assert key is not None  # noqa: S101 - the constructor resolves a key or raises
        return key

    @property
    def base_url(self) -> str:
        """Base URL of the API."""
        return self._config.endpoint.base_url

    @property
    def width(self) -> int | None:
        """Dimensions of the vectors; None as long as they are not known."""
        return self._pipeline.dimensions_check.dimensions

    def check_width(self, stored_width: int) -> None:
        """Check that a vector store with vectors of ``stored_width`` dimensions fits this embedder; sends nothing.

        Vector stores say little about vectors of other dimensions than their own. If the dimensions are not known yet,
        ``stored_width`` becomes the expected number, and a reply with another one is an error.

        Raises:
            ConfigurationError: Store and model do not fit. It is a ``ValueError``.
            InvalidTypeError: ``stored_width`` is not a whole number.
        """
        check_number("stored_width", stored_width, 1)
        self._pipeline.dimensions_check.accept_stored(stored_width)

    @property
    def cache_namespace(self) -> str:
        """A namespace for a cache of your own: equal for objects that give the same document the same vector.

        It depends on base URL, model, dimensions and ``on_overflow``.
        """
        return f"{self.model}-{self._config.on_overflow}-{self._pipeline.namespace.key('').hex()[:16]}"

    @property
    def usage(self) -> Usage:
        """Usage of this object so far: a snapshot. A copy of the object starts at 0."""
        return self._meter.snapshot()

    def embed(
        self, texts: Iterable[str], *, batch_size: int | None = None, first: int | Sequence[int] = 0
    ) -> NDArray[np.float32]:
        """Embed documents.

        Args:
            texts: The texts. Repeated texts are sent once.
            batch_size: Maximum number of texts in a request, 1 to 2048, for this call only. Default: as for the object.
            first: Position of the first text if the texts are a part of a longer list, or the position of each: errors
                then give positions in that list. Default: 0.

        Returns:
            ``(n, d)`` float32, a row for each text, in order. ``(0, d)`` for no texts, with d = 0 if the dimensions are
            not known yet.

        Raises:
            InvalidInputError: A text is empty, blank, too long or cannot be encoded; see ``.positions``. Nothing was
                sent.
            InvalidTypeError: ``texts`` is not an iterable of strings, or ``batch_size`` is not a whole number. Nothing
                was sent.
            ConfigurationError: ``batch_size`` is out of range, or the object was closed. Nothing was sent.
            BudgetExceededError: The next requests would exceed ``budget_usd``.
            NanoGPTError: The service was not reached, refused, or sent an invalid reply. All errors here are of this
                class; ``.completed`` holds the vectors that were finished.
        """
        vectors: NDArray[np.float32] = self._pipeline.embed(
            check_texts(texts, first), batch_size=batch_size, first=first
        )
        return vectors

    def embed_lists(
        self, texts: Iterable[str], *, batch_size: int | None = None, first: int | Sequence[int] = 0
    ) -> list[list[float]]:
        """Embed documents as :meth:`embed` does, into lists of floats, as both frameworks use them.

        Lists take ten times the memory of an array, and five times the CPU time.

        Args:
            texts: The texts.
            batch_size: As for :meth:`embed`.
            first: As for :meth:`embed`.

        Returns:
            A list of d floats for each text, in order.

        Raises:
            NanoGPTError: As for :meth:`embed`.
        """
        lists: list[list[float]] = self._pipeline.embed(
            check_texts(texts, first), batch_size=batch_size, as_lists=True, first=first
        )
        return lists

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a query, with ``query_instruction`` around it.

        Args:
            text: The query.

        Returns:
            ``(d,)`` float32, d being the dimensions of the model's vectors.

        Raises:
            NanoGPTError: As for :meth:`embed`.
        """
        query = self._with_instruction(text)
        vector: NDArray[np.float32] = self._pipeline.embed([query], show_progress=False)[0]
        return vector

    async def aembed(
        self, texts: Iterable[str], *, batch_size: int | None = None, first: int | Sequence[int] = 0
    ) -> NDArray[np.float32]:
        """Embed documents as :meth:`embed` does, without blocking the event loop.

        Returns:
            ``(n, d)`` float32, a row for each text, in order.
        """
        vectors: NDArray[np.float32] = await self._pipeline.aembed(
            check_texts(texts, first), batch_size=batch_size, first=first
        )
        return vectors

    async def aembed_lists(
        self, texts: Iterable[str], *, batch_size: int | None = None, first: int | Sequence[int] = 0
    ) -> list[list[float]]:
        """Embed documents as :meth:`embed_lists` does, without blocking the event loop.

        Returns:
            A list of d floats for each text, in order.
        """
        lists: list[list[float]] = await self._pipeline.aembed(
            check_texts(texts, first), batch_size=batch_size, as_lists=True, first=first
        )
        return lists

    async def aembed_query(self, text: str) -> NDArray[np.float32]:
        """Embed a query as :meth:`embed_query` does, without blocking the event loop.

        Returns:
            ``(d,)`` float32.
        """
        query = self._with_instruction(text)
        vector: NDArray[np.float32] = (await self._pipeline.aembed([query], show_progress=False))[0]
        return vector

    def stream(self, texts: Iterable[str], *, batch_size: int | None = None) -> Iterator[EmbeddedBatch]:
        """Embed any number of documents in constant memory.

        Batches come in order, each as soon as it and all before it are complete; a slow source does not hold them
        back. At most ``max_concurrency`` batches are in flight at once, and ``texts`` is read no further ahead.
        Repeated texts are sent once per batch; with a cache, not again once they are answered. ``deadline`` applies to
        each batch.

        Args:
            texts: Any iterable, even an endless one.
            batch_size: Texts in a batch, 1 to 2048. Default: as for :meth:`embed`, but at most 256, to save memory.

        Yields:
            The batches: :class:`EmbeddedBatch`, with the texts, their vectors and the position of the first one.

        Raises:
            NanoGPTError: As for :meth:`embed`; positions are those in the whole stream.
        """
        self._pipeline.lifetime.check_open()
        chunks = chunked(iterate_texts(texts), self._streamed_batch_size(batch_size))
        return stream_chunks(self._pipeline, chunks, len(texts) if isinstance(texts, Sized) else None)

    async def astream(
        self, texts: Iterable[str] | AsyncIterable[str], *, batch_size: int | None = None
    ) -> AsyncIterator[EmbeddedBatch]:
        """Embed documents as :meth:`stream` does, without blocking the event loop; ``texts`` may be asynchronous.

        Yields:
            The batches: :class:`EmbeddedBatch`.
        """
        require_event_loop()
        size = self._streamed_batch_size(batch_size)
        chunks: AsyncIterator[Chunk[str]] | Iterator[Chunk[str]]
        chunks = achunked(texts, size) if isinstance(texts, AsyncIterable) else chunked(iterate_texts(texts), size)
        total = len(texts) if isinstance(texts, Sized) else None
        async with contextlib.aclosing(astream_chunks(self._pipeline, chunks, total)) as batches:
            async for batch in batches:
                yield batch

    def check_lengths(self, texts: Iterable[str]) -> None:
        """Check that no text is too long for the model, unless ``on_overflow`` treats such texts; sends nothing.

        Raises:
            InvalidInputError: As for :meth:`embed`.
            InvalidTypeError: As for :meth:`embed`.
        """
        self._pipeline.check_lengths(check_texts(texts))

    def estimate(self, texts: Iterable[str]) -> Estimate:
        """Estimate tokens, cost in US dollars and requests for ``texts``; sends nothing.

        Texts whose vectors are in the cache cost nothing.

        Raises:
            InvalidInputError: As for :meth:`embed`.
            InvalidTypeError: As for :meth:`embed`.
        """
        self._pipeline.lifetime.check_open()
        return self._pipeline.estimate(check_texts(texts))

    def close(self) -> None:
        """Close the object: later calls raise; calls under way, and streams that have begun, go on to their end.

        Closes the cache file if ``cache`` is a path, and the connections of this process that no other object uses.
        Never closes a client, cache or limits object that was passed. Connections of async calls stay open until their
        event loop shuts down: use :meth:`aclose` for these. Closing twice is allowed. Copies are objects of their own
        and stay open.
        """
        self._pipeline.close()

    async def aclose(self) -> None:
        """Close the object as :meth:`close` does, and the running event loop's connections without other users."""
        await self._pipeline.aclose()

    def _with_instruction(self, text: str) -> str:
        query = check_text(text, "query")
        instruction = self._config.query_instruction
        if instruction == "recommended":
            instruction = self._config.model_row.query_instruction
        if not instruction:
            return query
        return instruction.replace("{query}", query) if "{query}" in instruction else instruction + query

    def _streamed_batch_size(self, batch_size: int | None) -> int:
        if batch_size is not None:
            return check_number("batch_size", batch_size, 1, MAX_ITEMS)
        return self._config.batch_size or min(self._config.model_row.batch_size, _MAX_TEXTS_PER_STREAMED_BATCH)

    def __repr__(self) -> str:
        if "_pipeline" not in self.__dict__:
            return f"<{type(self).__name__}, not initialized>"  # a debugger may ask while the constructor fails
        config = self._config
        reduced = f", dimensions={config.dimensions}" if config.dimensions is not None else ""
        return f"{type(self).__name__}(model={self.model!r}{reduced}, base_url={self.base_url!r})"

    def __getstate__(self) -> dict[str, Any]:
        if self._config.http_client is not None or self._config.http_async_client is not None:
            raise InvalidTypeError(
                "An object with http_client or http_async_client cannot be pickled.",
                remedy="Connections cannot be moved to another process; create the object there.",
            )
        return self._state()

    def _state(self) -> dict[str, Any]:
        """Return the state of a copy: all but the pipeline, which each object makes for itself."""
        shared = {name: value for name, value in self.__dict__.items() if name != "_pipeline"}
        return {**shared, "learned": self._pipeline.dimensions_check.learned}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        learned = self.__dict__.pop("learned")
        self._pipeline = Pipeline(self._config, self._meter, self._budget, learned)

    def __copy__(self) -> Embedder:
        twin = type(self).__new__(type(self))
        # Each object counts its own usage.
        fresh = {"_meter": copy.copy(self._meter), "_budget": copy.copy(self._budget)}
        twin.__setstate__({**self._state(), **fresh})
        return twin

    def __deepcopy__(self, memo: object) -> Embedder:
        return copy.copy(self)
