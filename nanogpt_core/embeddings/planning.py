"""Plans one call: which texts are sent, in which batches, and which result rows they fill. No I/O of its own.

A text is sent as it is, truncated, or in several pieces. Each such string is a *request text*. A request text is sent
once, even if the caller's texts repeat. Batches keep to the limits of the model, and to those of its host, which this
process learns from refusals. Counting tokens may load a vocabulary: :mod:`~nanogpt_core.models.tokens`.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Literal, TypeVar

from nanogpt_core._runtime.log import logger
from nanogpt_core._runtime.words import counted
from nanogpt_core.embeddings.inputs import MAX_POSITIONS_SHOWN, describe_positions
from nanogpt_core.errors import TextTooLongError
from nanogpt_core.models.tokens import TokenCounter, byte_lengths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Overflow = Literal["error", "truncate", "split"]
OVERFLOW_MODES: tuple[Overflow, ...] = ("error", "truncate", "split")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """The texts of one request.

    Attributes:
        texts: The request texts.
        request_indices: For each text, its index in the plan's request texts.
        positions: For each text, its first position in the caller's list, for error messages.
        tokens: For each text, its tokens: exact with a budget, otherwise the plan's weights.
    """

    texts: Sequence[str]
    request_indices: Sequence[int]
    positions: Sequence[int]
    tokens: Sequence[int]

    def halves(self) -> tuple[Batch, Batch]:
        """Return the batch in two parts."""
        count = len(self.texts)
        return self.select(range(count // 2)), self.select(range(count // 2, count))

    def select(self, indices: Sequence[int]) -> Batch:
        """Return the batch of some of the texts."""
        return Batch(
            _pick(self.texts, indices),
            _pick(self.request_indices, indices),
            _pick(self.positions, indices),
            _pick(self.tokens, indices),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Maps the caller's texts to request texts.

    Caller's text -> ``index_of`` -> distinct text -> ``request_index_of`` -> request text, or ``pieces`` -> several
    request texts.

    Attributes:
        text_positions: For each text of the call, its position in the caller's list or stream.
        request_texts: The distinct request texts.
        weights: For each request text, an estimate of its tokens.
        positions: For each request text, the first position in the caller's list that needs it.
        index_of: For each text of the call, the index of its distinct text.
        request_index_of: For each distinct text, the index of its request text; -1 if it was split.
        one_to_one: True if each of the caller's texts is one request text, in the same order.
        pieces: For each distinct text that was split, its pieces: index of the request text, and tokens.
    """

    text_positions: Sequence[int]
    request_texts: list[str]
    weights: list[int]
    positions: Sequence[int]
    index_of: Sequence[int]
    request_index_of: Sequence[int]
    one_to_one: bool
    pieces: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def assemble(self, vectors: NDArray[np.float32], text_indices: Sequence[int] | None = None) -> NDArray[np.float32]:
        """Return the vectors of the call's texts, ``(n, d)`` float32, or only of some of them, by their indices.

        ``vectors`` has a row for each request text. It is returned itself if no text was repeated or split.
        """
        if text_indices is None and self.one_to_one:
            return vectors
        import numpy as np  # planning itself needs no numpy

        distinct = np.asarray(self.index_of, dtype=np.intp)
        if text_indices is not None:
            distinct = distinct[np.asarray(text_indices, dtype=np.intp)]
        indices = np.asarray(self.request_index_of, dtype=np.intp)[distinct]
        # The index of a text that was split is -1; its mean is filled in below.
        result: NDArray[np.float32] = vectors[indices]
        if self.pieces:
            for place in np.flatnonzero(indices < 0).tolist():
                pieces = self.pieces[int(distinct[place])]
                result[place] = weighted_mean([vectors[piece] for piece, _ in pieces], [tokens for _, tokens in pieces])
        return result

    def is_complete(self, index: int, done: Sequence[int]) -> bool:
        """Return whether all request texts of the distinct text ``index`` are done."""
        request_index = self.request_index_of[index]
        return bool(done[request_index]) if request_index >= 0 else all(done[piece] for piece, _ in self.pieces[index])

    def texts_done(self) -> list[int]:
        """Return for each request text the number of the caller's texts that it completes."""
        if self.one_to_one:
            return [1] * len(self.text_positions)
        counts = [0] * len(self.request_texts)
        last = [self.pieces[i][-1][0] if request < 0 else request for i, request in enumerate(self.request_index_of)]
        for index in self.index_of:
            counts[last[index]] += 1
        return counts


def weighted_mean(vectors: Sequence[NDArray[np.float32]], weights: Sequence[int]) -> NDArray[np.float32]:
    """Return the mean of ``vectors``, ``(d,)`` float32 each, scaled to length 1: ``(d,)`` float32."""
    import numpy as np

    exact = np.asarray(vectors, dtype=np.float64)
    mean = np.average(exact, axis=0, weights=weights)
    # Pieces that point in opposite directions cancel out; then the first one represents the text.
    norm = float(np.linalg.norm(mean))
    scaled: NDArray[np.float64] = mean / norm if norm else exact[0] / np.linalg.norm(exact[0])
    return scaled.astype(np.float32)


def make_plan(
    texts: Sequence[str],
    counter: TokenCounter,
    overflow: Overflow = "error",
    first: int | Sequence[int] = 0,
) -> Plan:
    """Plan which request texts to send for ``texts``, which are checked, as is ``first``.

    ``first`` is the position of the first one in the caller's list, or a sequence with the position of each.

    Raises:
        TextTooLongError: ``overflow`` is ``"error"`` and a text has more tokens than the model takes.
    """
    distinct = list(dict.fromkeys(texts))
    index_of: Sequence[int] = range(len(texts))
    positions = text_positions = range(first, first + len(texts)) if isinstance(first, int) else first
    if len(distinct) < len(texts):
        indices = {text: index for index, text in enumerate(distinct)}
        index_of = [indices[text] for text in texts]
        # In reverse order, so that the first position of a repeated text is the one that stays.
        first_seen = dict(zip(reversed(texts), reversed(text_positions), strict=True))
        positions = [first_seen[text] for text in distinct]
    weights, too_long = counter.measure(distinct)
    one_to_one = len(distinct) == len(texts)
    plan = Plan(text_positions, distinct, weights, positions, index_of, range(len(distinct)), one_to_one)
    if not too_long:
        return plan
    if overflow == "error":
        found = [(positions[index], tokens) for index, tokens in too_long.items()]
        raise _too_long_error(found, counter, is_only=is_only_text(text_positions))
    return _truncate_or_split(plan, too_long, counter, split=overflow == "split")


def _truncate_or_split(plan: Plan, too_long: Collection[int], counter: TokenCounter, *, split: bool) -> Plan:
    """Return the plan with other request texts for those of its texts that are over the limit."""
    logger.info(
        "%s over the model's limit of %d tokens %s %s: %s",
        counted(len(too_long), "distinct text"),
        counter.limit,
        "is" if len(too_long) == 1 else "are",
        "split" if split else "truncated",
        describe_positions([plan.positions[number] for number in too_long]),
    )
    index_of_text: dict[str, int] = {}
    request_positions: list[int] = []
    request_index_of: list[int] = []
    pieces: dict[int, list[tuple[int, int]]] = {}

    def add(text: str, position: int) -> int:
        index = index_of_text.setdefault(text, len(index_of_text))
        if index == len(request_positions):
            request_positions.append(position)
        return index

    for number, (text, position) in enumerate(zip(plan.request_texts, plan.positions, strict=True)):
        if number not in too_long:
            request_index_of.append(add(text, position))
        elif split:
            pieces[number] = [(add(piece, position), tokens) for piece, tokens in counter.split(text)]
            request_index_of.append(-1)
        else:
            request_index_of.append(add(next(counter.split(text))[0], position))
    texts = list(index_of_text)
    return replace(
        plan,
        request_texts=texts,
        weights=counter.weights(byte_lengths(texts)),
        positions=request_positions,
        request_index_of=request_index_of,
        one_to_one=len(texts) == len(plan.index_of) and not pieces,
        pieces=pieces,
    )


def is_only_text(positions: Sequence[int]) -> bool:
    """Return whether these are the positions of a call with only one text, such as a query: its errors name none.

    A list is not: the caller gave it, or it leaves out texts that are repeated or in the cache.
    """
    return positions == range(1)


def _too_long_error(found: Sequence[tuple[int, int]], counter: TokenCounter, *, is_only: bool) -> TextTooLongError:
    positions = [position for position, _ in found]
    about = "" if counter.kind == "exact" else "about "
    sizes = ", ".join(f"{about}{tokens:,}" for _, tokens in islice(found, MAX_POSITIONS_SHOWN))
    place = "" if is_only else f" at {describe_positions(positions)}"
    return TextTooLongError(
        f"Too many tokens for the model, which takes {counter.limit:,} per text: {sizes}{place}.",
        remedy='Shorten or split it, or pass on_overflow="truncate" or on_overflow="split".',
        positions=positions,
    )


def make_batches(
    plan: Plan,
    request_indices: Sequence[int],
    *,
    max_items: int,
    max_tokens: int | None,
    host_capabilities: HostCapabilities,
    count: Callable[[str], int] | None = None,
) -> list[Batch]:
    """Divide request texts into batches, in order.

    The host may accept less than ``max_items`` and ``max_tokens``. With a budget, ``count`` counts tokens exactly;
    otherwise the plan's weights will do.
    """
    weights = _pick(plan.weights, request_indices)
    batches = []
    for indices in pack(weights, max_items, max_tokens):
        some = request_indices[indices.start : indices.stop]
        texts = _pick(plan.request_texts, some)
        tokens = weights[indices.start : indices.stop] if count is None else [count(text) for text in texts]
        batches += host_capabilities.split(Batch(texts, some, _pick(plan.positions, some), tokens))
    return batches


def _pick(values: Sequence[T], indices: Sequence[int]) -> Sequence[T]:
    if isinstance(indices, range):
        return values[indices.start : indices.stop]
    return [values[index] for index in indices]


def pack(weights: Sequence[int], max_items: int, max_tokens: int | None) -> list[range]:
    """Return the indices of the texts of each batch, in order, for texts of so many tokens.

    A text over ``max_tokens`` gets a batch of its own.
    """
    ranges = []
    start = 0
    while start < len(weights):
        totals = list(accumulate(weights[start : start + max_items]))
        count = len(totals) if max_tokens is None else max(1, bisect_right(totals, max_tokens))
        ranges.append(range(start, start + count))
        start += count
    return ranges


class HostCapabilities:
    """Encoding and size of the requests that the host of one model accepts, as this process learned from refusals.

    Attributes:
        encoding: The ``encoding_format`` that the host accepts: ``"base64"`` until it refuses it, then ``"float"``, and
            None if it refuses the field.
        is_limited: True if it has refused a batch as too large, although it fits the model.
    """

    def __init__(self) -> None:
        self.encoding: str | None = "base64"
        self.is_limited = False
        self._max_items = self._max_bytes = sys.maxsize

    def fits(self, batch: Batch) -> bool:
        """Return whether the host can accept the batch, by what is known."""
        # The limit is on texts or on bytes; which one is unknown. A batch over both is refused for certain.
        return len(batch.texts) <= self._max_items or _size(batch) <= self._max_bytes

    def learn(self, refused: Batch, accepted: Batch) -> None:
        """Learn from a batch that the host refused as too large, and from the largest part of it that it accepted.

        A limit that the refused batch exceeds may explain the refusal, and stays: the parts can be smaller than it.
        """
        if not self.fits(refused):
            return
        if len(refused.texts) <= self._max_items:
            self._max_items = min(len(accepted.texts), self._max_items)
        if _size(refused) <= self._max_bytes:
            self._max_bytes = min(_size(accepted), self._max_bytes)
        self.is_limited = True
        logger.info(
            "Learned: the host takes %s, or %s, in a request",
            counted(self._max_items, "text"),
            counted(self._max_bytes, "byte"),
        )

    def split(self, batch: Batch) -> list[Batch]:
        """Return the batch in parts that fit."""
        if self.fits(batch):
            return [batch]
        return [part for half in batch.halves() for part in self.split(half)]


_hosts: dict[tuple[str, str], HostCapabilities] = {}


def host_capabilities_for(base_url: str, model: str) -> HostCapabilities:
    """Return the capabilities that this process has learned for ``model`` at ``base_url``."""
    return _hosts.setdefault((base_url, model), HostCapabilities())


def _size(batch: Batch) -> int:
    return sum(byte_lengths(batch.texts))
