"""Sends the texts of a spool, and writes passages and vectors in order."""

from __future__ import annotations

import contextlib
import hashlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.cost import format_usd
from nanogpt_core.cli.formats.base import Block, Facts
from nanogpt_core.cli.job.state import State
from nanogpt_core.cli.job.vector_log import VectorLog
from nanogpt_core.cli.kept_cache import KeptCache
from nanogpt_core.cli.progress import Progress
from nanogpt_core.cli.reading.spool import Spool, SpooledBlock
from nanogpt_core.embeddings.embedder import Embedder
from nanogpt_core.observability.usage import Usage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

_MAX_WAITING_BLOCKS = 4  # 16 batches of 256 texts, which can arrive at once


class JobRun:
    """One run of a job: its embedder, whose ``cache`` holds the vectors of earlier runs, its spool and its state.

    Attributes:
        done: Number of distinct texts that have a vector.
    """

    def __init__(
        self, embedder: Embedder, spool: Spool, state: State, cache: VectorLog | KeptCache, progress: Progress
    ) -> None:
        self.embedder = embedder
        self.spool = spool
        self.state = state
        self._cache = cache
        self._progress = progress
        self._hash = hashlib.sha256()
        self.done = 0

    @property
    def usage(self) -> Usage:
        """Usage of all runs."""
        return self.state.earlier_usage + self.embedder.usage

    @property
    def vectors_sha256(self) -> str:
        """SHA-256, in hexadecimal, of the vectors so far."""
        return self._hash.hexdigest()

    def write(self, write: Callable[[Facts, Iterator[Block]], None]) -> Facts:
        """Embed all passages, and ``write`` them in a format; return the facts about the output.

        Raises:
            NanoGPTError: As :meth:`nanogpt_core.Embedder.stream`.
            OSError: The output or the state cannot be written.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(self.state.note_usage, lambda: self.embedder.usage)
            writing: _Writing | None = None
            for block in self._blocks():  # at least one
                if writing is None:
                    dimensions = block.vectors[0].shape[1]
                    facts = Facts(self.embedder.model, dimensions, self.spool.passages, self.spool.texts_sha256)
                    writing = stack.enter_context(_Writing(partial(write, facts)))
                writing.put(block)
                # Not in the thread that writes, which is the slowest if replies come at once.
                for part in block.vectors:
                    self._hash.update(part.astype("<f4", order="C", copy=False).data)
        return facts

    def _blocks(self) -> Iterator[Block]:
        """Yield all rows in blocks of the same size in each run, so that the output is the same."""
        vectors = self._vectors()
        parts: deque[NDArray[np.float32]] = deque()  # rows that no block has taken yet
        for block in self.spool.blocks():
            yield self._assemble(block, _take(block.new, parts, vectors))

    def _assemble(self, block: SpooledBlock, new: list[NDArray[np.float32]]) -> Block:
        """Return a block with the vectors of its new texts, and of texts that earlier blocks held too."""
        import numpy as np

        if block.new == len(block.passages):
            return Block(block.passages, new)
        texts = {
            text_id: passage.text
            for text_id, passage in zip(block.text_ids, block.passages, strict=True)
            if text_id <= block.known
        }
        # From the cache: nothing is sent.
        repeated = [self.embedder.embed(texts.values())] if texts else []
        order = [*texts, *range(block.known + 1, block.known + block.new + 1)]
        place = {text_id: number for number, text_id in enumerate(order)}
        return Block(block.passages, [np.concatenate([*repeated, *new])[[place[one] for one in block.text_ids]]])

    def _vectors(self) -> Iterator[NDArray[np.float32]]:
        """Yield the vectors of the distinct texts, as they arrive."""
        self._progress.begin("Embedding", self.spool.texts)
        for batch in self.embedder.stream(self.spool.distinct_texts()):
            if self._cache.failure is not None:
                raise self._cache.failure  # the embedder continues without its cache, and a kill would cost money
            self.done += len(batch.texts)
            self._show_usage()
            yield batch.vectors

    def _show_usage(self) -> None:
        usage = self.usage
        tokens = "" if usage.prompt_tokens is None else f"{counted(usage.prompt_tokens, 'token')}, "
        self._progress.advance_to(self.done, f"{tokens}{format_usd(usage.cost_usd)}")


def _take(
    count: int, parts: deque[NDArray[np.float32]], arriving: Iterator[NDArray[np.float32]]
) -> list[NDArray[np.float32]]:
    """Remove ``count`` rows from ``parts``, which takes more as they arrive; no array is copied."""
    taken = []
    while count:
        part = parts.popleft() if parts else next(arriving)
        taken.append(part[:count])
        if len(part) > count:
            parts.append(part[count:])
        count -= len(taken[-1])
    return taken


class _Writing:
    """Writes blocks in a thread. Requests are started by the thread that reads the stream, which must not wait.

    ``write`` imports Arrow, which takes about as long as a request. The ``with`` block ends when everything is written.
    """

    def __init__(self, write: Callable[[Iterator[Block]], None]) -> None:
        self._write = write
        self._blocks: queue.Queue[Block | None] = queue.Queue(_MAX_WAITING_BLOCKS)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="nanogpt-writer", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._write(self._taken())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that reads the stream
            self._failure = error
            while self._blocks.get() is not None:  # put() must not wait for a place in the queue
                pass

    def _taken(self) -> Iterator[Block]:
        while (block := self._blocks.get()) is not None:
            yield block
        self._blocks.put(None)  # Lance reads in a thread of its own, and _run() may wait for the end too

    def put(self, block: Block) -> None:
        """Have a block written."""
        if self._failure is not None:
            raise self._failure
        self._blocks.put(block)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._blocks.put(None)
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure
