"""Reads the bytes of an embeddings reply into a checked float32 matrix. The only place that reads one.

A reply is either turned into the right vectors or refused with :class:`~nanogpt_core.errors.ReplyError`, in the
service's own words where it says any: wrong count, missing, repeated or mixed indices, uneven or unexpected width,
base64 that is cut short, numbers that are not finite, and zero vectors are all refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core._runtime.gc_pause import gc_paused
from nanogpt_core.errors import DamagedReplyError, DimensionsError, ReplyError
from nanogpt_core.http.error_body import error_message, excerpt
from nanogpt_core.models.catalog import ModelInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "DimensionsCheck",
    "EmbeddingResponse",
    "names_same_model",
    "parse_embeddings",
]

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Few enough to stay in the processor's own memory. What comes in megabytes the system hands out page by page, and takes
# back as soon as it is not needed any more; that takes several times as long as the decoding.
_DECODED_AT_ONCE = 16
_MOST_TOKENS = 2**53  # beyond this a float, and so a price, is no longer exact


@dataclass(frozen=True, slots=True)
class EmbeddingResponse:
    """A reply that was read and checked.

    Attributes:
        vectors: ``(n, d)`` float32, in the order of the request's texts.
        prompt_tokens: Tokens billed, or None where the reply does not say.
        model: The model that the reply names, or None.
    """

    vectors: NDArray[np.float32]
    prompt_tokens: int | None
    model: str | None


class DimensionsCheck(ForkSafe):
    """Holds the one width that an object's vectors have.

    It is what ``dimensions`` asked for; else the first reply's, if a source gives that width for the model or no source
    speaks of the model. Thread-safe.

    Args:
        model: What is known about the model.
        dimensions: What was asked for, or None for the model's full width.
        learned: A width that an earlier reply had, or None.
    """

    def __init__(self, model: ModelInfo, dimensions: int | None = None, learned: int | None = None) -> None:
        self._model = model.id
        self._sources = frozenset((dimensions,)) if dimensions is not None else model.widths
        self._asked = dimensions is not None
        self._listed = False
        self._width = learned
        super().__init__()

    @property
    def width(self) -> int | None:
        """The width, or None while no reply has settled it and sources give none or several."""
        if self._width is None and len(self._sources) == 1:
            return next(iter(self._sources))
        return self._width

    @property
    def learned(self) -> int | None:
        """The width that a reply settled, or None."""
        return self._width

    @property
    def knows_live_list(self) -> bool:
        """Whether there is nothing to learn from the live list: it was heard, or the width is settled without it."""
        return self._asked or self._listed or self._width is not None

    def add_source(self, width: int | None) -> None:
        """Allow the width that the live list gives for the model; None where it gives none."""
        with self._lock:
            self._listed = True
            if width is not None and not self._asked and self._sources:
                self._sources |= {width}

    def accept(self, width: int) -> None:
        """Settle the width, or check it against the settled one.

        Raises:
            DimensionsError: It is not the right width.
        """
        with self._lock:
            if self._width == width:
                return
            allowed = self._sources if self._width is None else frozenset((self._width,))
            if not allowed or width in allowed:
                self._width = width
                return
        expected = " or ".join(map(str, sorted(allowed)))
        raise DimensionsError(
            f"The reply's vectors have {width} dimensions, not {expected}, as expected of {self._model}.",
            remedy="Nothing was returned or kept. Check the model's name and `dimensions`.",
            width=width,
        )


def parse_embeddings(body: bytes, count: int, room: NDArray[np.float32] | None = None) -> EmbeddingResponse:
    """Read the reply to a request of ``count`` texts; see :class:`DimensionsCheck` for the check of its width.

    Args:
        body: The reply.
        count: Texts in the request.
        room: Where the vectors may be written, and are where they fit: ``(count, d)`` float32. What is there after an
            error is to be ignored.

    Raises:
        DamagedReplyError: It is not whole JSON, or a vector's base64 is damaged.
        ReplyError: It does not hold the vectors asked for.
    """
    with gc_paused():
        document, embeddings = _parsed(body, count)
        vectors = _matrix(embeddings, room)
    _check_numbers(vectors)
    model = document.get("model")
    return EmbeddingResponse(vectors, _prompt_tokens(document.get("usage")), model if isinstance(model, str) else None)


def _parsed(body: bytes, count: int) -> tuple[dict[str, Any], list[Any]]:
    from jiter import from_json  # comes with the SDK, which is imported late

    try:
        document = from_json(body.removeprefix(_BYTE_ORDER_MARK), cache_mode="keys", catch_duplicate_keys=True)
    except ValueError as error:
        if "duplicate key" in str(error):
            raise ReplyError(f"The reply says something twice, and not which is meant: {error}.") from error
        what = f"begins {excerpt(body)!r}" if body.strip() else "is empty"
        raise DamagedReplyError(f"The reply is not JSON, but {what}.") from error
    if not isinstance(document, dict):
        raise ReplyError(f"The reply is not a JSON object, but begins {excerpt(body)!r}.")
    data = document.get("data")
    if not isinstance(data, list) or document.get("error"):
        words = error_message(document)
        raise ReplyError(
            f"The service answered 200 with an error: {words}" if words else f"No data in reply: {excerpt(body)!r}."
        )
    return document, _in_order(data, count)


def _in_order(data: list[Any], count: int) -> list[Any]:
    if len(data) != count:
        raise ReplyError(f"The reply holds {len(data)} vectors for {count} texts.")
    if not all(isinstance(item, dict) for item in data):
        raise ReplyError("The reply's data holds something that is not an object.")
    indices = [item.get("index") for item in data]
    embeddings = [item.get("embedding") for item in data]
    if indices == list(range(count)) and all(type(index) is int for index in indices):
        return embeddings
    if all(index is None for index in indices):
        return embeddings
    if not all(type(index) is int for index in indices) or sorted(indices) != list(range(count)):
        raise ReplyError(f"The reply's indices are not 0 to {count - 1}, each once; vectors cannot be told apart.")
    return [embedding for _, embedding in sorted(zip(indices, embeddings, strict=True), key=lambda pair: pair[0])]


def _matrix(embeddings: list[Any], room: NDArray[np.float32] | None) -> NDArray[np.float32]:
    if all(type(embedding) is str for embedding in embeddings):
        return _from_base64(embeddings, room)
    if all(type(embedding) is list for embedding in embeddings):
        return _from_floats(embeddings)
    kinds = ", ".join(sorted({type(embedding).__name__ for embedding in embeddings}))
    raise ReplyError(f"The reply's vectors are neither all base64 nor all lists of numbers, but: {kinds}.")


def _from_base64(embeddings: list[str], room: NDArray[np.float32] | None) -> NDArray[np.float32]:
    import numpy as np

    vectors = _decoded_in_parts(embeddings, room)
    if vectors is None:
        numbers = _decoded_one_by_one(embeddings)
        vectors = np.frombuffer(numbers, dtype="<f4").reshape(len(embeddings), -1).astype(np.float32, copy=False)
    return vectors


def _decoded_in_parts(embeddings: list[str], room: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """Return vectors that are in equally long base64 without padding; None for any others."""
    import binascii

    import numpy as np
    from pybase64 import b64decode

    length = len(embeddings[0])
    # Four characters are three bytes, so that these are whole numbers of float32, and no vector runs into the next.
    if length == 0 or length % 16 or any(len(embedding) != length for embedding in embeddings):
        return None
    width = length // 16 * 3
    shape = len(embeddings), width
    vectors = room if room is not None and room.shape == shape else np.empty(shape, dtype=np.float32)
    for start in range(0, len(embeddings), _DECODED_AT_ONCE):
        part = embeddings[start : start + _DECODED_AT_ONCE]
        try:
            numbers = b64decode("".join(part), validate=True)
        except (binascii.Error, ValueError):
            return None  # also for padding within
        if len(numbers) != len(part) * width * 4:
            return None
        vectors[start : start + len(part)] = np.frombuffer(numbers, dtype="<f4").reshape(len(part), width)
    return vectors


def _decoded_one_by_one(embeddings: list[str]) -> bytes:
    import binascii

    from pybase64 import b64decode

    try:
        rows = [b64decode(embedding, validate=True) for embedding in embeddings]
    except (binascii.Error, ValueError) as error:
        raise DamagedReplyError(f"A vector's base64 is damaged: {error}.") from error
    size = len(rows[0])
    uneven = next((i for i, row in enumerate(rows) if len(row) != size), None)
    if uneven is not None:
        raise ReplyError(f"The reply's vectors differ in width: {size} and {len(rows[uneven])} bytes.")
    if size == 0 or size % 4:
        raise DamagedReplyError(f"A vector of {size} bytes is not a row of float32 numbers.")
    return b"".join(rows)


def _from_floats(embeddings: list[list[Any]]) -> NDArray[np.float32]:
    import numpy as np

    widths = {len(embedding) for embedding in embeddings}
    if len(widths) != 1 or 0 in widths:
        raise ReplyError(f"The reply's vectors are empty or differ in width: {sorted(widths)} numbers.")
    # bool is a number to numpy, and null or a string would become NaN or be parsed.
    if not {type(number) for embedding in embeddings for number in embedding} <= {float, int}:
        raise ReplyError("A vector of the reply holds something that is not a number.")
    with np.errstate(all="ignore"):
        try:
            return np.array(embeddings, dtype=np.float64).astype(np.float32)
        except OverflowError as error:
            raise ReplyError("A vector of the reply holds a number too large for float32.") from error


def _check_numbers(vectors: NDArray[np.float32]) -> None:
    import numpy as np

    with np.errstate(all="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    suspect = np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))
    # A square may overflow or vanish where the number itself does not, so the few suspects are looked at closely.
    for row in suspect.tolist():
        if not np.isfinite(vectors[row]).all():
            raise ReplyError(f"Vector {row} of the reply holds a number that is not finite.")
        if not vectors[row].any():
            raise ReplyError(f"Vector {row} of the reply is all zeros, which is no embedding.")


def _prompt_tokens(usage: object) -> int | None:
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return tokens if type(tokens) is int and 0 <= tokens <= _MOST_TOKENS else None


def names_same_model(asked: str, answered: str | None) -> bool:
    """Whether the reply's model is the one asked for; vendor's prefix, letter case and version's suffix may differ."""
    if answered is None:
        return True
    mine, theirs = (name.lower().rsplit("/", 1)[-1] for name in (asked, answered))
    return theirs.startswith(mine) or (mine.startswith(theirs) and len(theirs) * 2 >= len(mine))
