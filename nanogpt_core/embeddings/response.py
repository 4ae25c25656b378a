"""Parses an embeddings reply into a validated float32 array. No other module reads such replies.

A reply becomes the right vectors, or a :class:`~nanogpt_core.errors.ReplyError` with the service's message if it has
one. Refused are: a wrong count, missing, repeated or mixed indices, different or unexpected dimensions, truncated
base64, numbers that are not finite, and zero vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core._runtime.log import logger
from nanogpt_core._runtime.words import counted
from nanogpt_core.errors import ConfigurationError, DamagedReplyError, DimensionsError, ReplyError
from nanogpt_core.http.error_body import as_sentence, error_message, excerpt, remedy_of_page
from nanogpt_core.models.catalog import MODELS, ModelInfo
from nanogpt_core.models.pricing import parse_cost_usd, price

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAX_TOKENS = 2**53  # a float, and so a price, is exact up to here
# Vectors that are decoded together: few enough for the processor's cache. 20,000 vectors of 1,536 numbers take 0.08 s
# of CPU time, against 0.39 s if all vectors of a reply are decoded at once into fresh memory.
_VECTORS_PER_DECODE = 16
_MAX_NAMES_SHOWN = 4
# A vector of at least so many dimensions, with a squared length outside these bounds, was not sent as little-endian
# float32: vLLM sends the byte order of its machine, and numbers of 16 bits if it is asked to.
_MIN_MODEL_DIMENSIONS = 64
_MIN_SQUARE, _MAX_SQUARE = 1e-6, 1e16


@dataclass(frozen=True, slots=True)
class EmbeddingResponse:
    """A parsed and validated reply.

    Attributes:
        vectors: ``(n, d)`` float32, in the order of the request's texts.
        prompt_tokens: Tokens billed, or None if the reply does not say.
        model: The model that the reply names, or None.
        cost_usd: Cost of the request in US dollars, as the reply gives it or at the model's price; None if unknown.
        request_id: The service's ``X-Request-ID``, or None.
    """

    vectors: NDArray[np.float32]
    prompt_tokens: int | None
    model: str | None
    cost_usd: float | None = None
    request_id: str | None = None


class DimensionsCheck(ForkSafe):
    """Makes sure that all vectors of one embedder have the same dimensions. Thread-safe.

    With the option ``dimensions`` that is the number asked for. Otherwise it is that of the first reply, if the catalog
    or the live list gives this number for the model, or if neither knows the model.

    Attributes:
        dimensions: Dimensions of the vectors; None as long as no reply has come and the sources give none or several.
        learned: Dimensions of the first reply, or None.
        needs_live_list: True if the live list could allow other dimensions than the expected ones.
    """

    def __init__(self, model: ModelInfo, dimensions: int | None = None, learned: int | None = None) -> None:
        self._model = model
        self._expected = frozenset((dimensions,)) if dimensions is not None else model.widths
        self.learned = learned
        self.needs_live_list = dimensions is None and learned is None
        self.dimensions = self._single_expectation() if learned is None else learned
        super().__init__()

    def _single_expectation(self) -> int | None:
        return next(iter(self._expected)) if len(self._expected) == 1 else None

    def add_source(self, dimensions: int | None) -> None:
        """Also allow the dimensions that the live list gives for the model; None if it gives none."""
        with self._lock:
            self.needs_live_list = False
            if dimensions is not None and self._expected:
                self._expected |= {dimensions}
                if self.learned is None:
                    self.dimensions = self._single_expectation()

    def _allowed(self) -> frozenset[int]:
        """Return the dimensions that a reply may have; none if it may have any."""
        return self._expected if self.learned is None else frozenset((self.learned,))

    def allows(self, dimensions: int) -> bool:
        """Return whether a reply may have these dimensions, by what is known so far."""
        with self._lock:
            allowed = self._allowed()
            return not allowed or dimensions in allowed

    def accept(self, dimensions: int, source: str = "reply") -> None:
        """Learn the dimensions from the first reply; raise a DimensionsError if those of a further one differ."""
        with self._lock:
            if self.learned == dimensions:
                return
            allowed = self._allowed()
            if not self.allows(dimensions):
                expected = " or ".join(map(str, sorted(allowed)))
                raise DimensionsError(
                    f"The {source}'s vectors have {dimensions} dimensions, not {expected}, as expected of "
                    f"{self._model.id}.",
                    remedy="Nothing was returned or cached. Check the model's name and `dimensions`.",
                    width=dimensions,
                )
            self.learned = self.dimensions = dimensions
            self.needs_live_list = False
        if len(allowed) != 1:
            logger.info("Learned: vectors of %s have %d dimensions", self._model.id, dimensions)

    def accept_stored(self, dimensions: int) -> None:
        """Compare the dimensions of a vector store's vectors; learn them if they are not known yet.

        If they differ, a ConfigurationError says what can be done.
        """
        try:
            self.accept(dimensions)
        except DimensionsError as error:
            own = self.dimensions
            expected = str(own) if own is not None else " or ".join(map(str, sorted(self._model.widths)))
            raise ConfigurationError(
                f"The store holds vectors of {dimensions:,} dimensions; those of {self._model.id} have {expected}.",
                remedy=_store_remedy(self._model, dimensions),
            ) from error


def _store_remedy(model: ModelInfo, dimensions: int) -> str:
    ways = []
    if model.reduces and (model.min_dimensions or 1) <= dimensions <= (model.max_dimensions or 0):
        ways.append(f"pass dimensions={dimensions}, if this model filled it with them")
    fitting = [row.id for row in MODELS.values() if dimensions in row.widths and row.id != model.id]
    shown = ", ".join(fitting[:_MAX_NAMES_SHOWN]) + (" or another" if len(fitting) > _MAX_NAMES_SHOWN else "")
    ways.append("open it with the model that filled it" + (f" (such vectors come from {shown})" if fitting else ""))
    ways.append(f"or fill a new store with {model.id}")
    text = ", ".join(ways)
    return f"{text[0].upper()}{text[1:]}."


def parse_embeddings(
    body: bytes,
    count: int,
    out: NDArray[np.float32] | None = None,
    request_id: str | None = None,
    usd_per_million_tokens: float | None = None,
) -> EmbeddingResponse:
    """Parse the reply to a request of ``count`` texts; :class:`DimensionsCheck` compares its dimensions.

    The vectors are written into ``out``, ``(count, d)`` float32, if the dimensions fit; after an error its contents are
    undefined. The price is used for a reply that names no cost.

    Raises:
        DamagedReplyError: The reply is no complete JSON, or the base64 of a vector is damaged.
        ReplyError: It does not hold the vectors asked for.
    """
    try:
        document, embeddings = _parse_json(body, count)
        vectors = _to_array(embeddings, out)
        _check_numbers(vectors)
    except ReplyError as error:
        error.request_id = request_id
        raise
    model, tokens = document.get("model"), _prompt_tokens(document.get("usage"))
    cost = parse_cost_usd(document.get("x_nanogpt_pricing"))
    return EmbeddingResponse(
        vectors,
        prompt_tokens=tokens,
        model=model if isinstance(model, str) else None,
        cost_usd=price(tokens, usd_per_million_tokens) if cost is None else cost,
        request_id=request_id,
    )


def _parse_json(body: bytes, count: int) -> tuple[dict[str, Any], list[Any]]:
    from jiter import from_json  # comes with the SDK, which is imported late

    try:
        document = from_json(body, cache_mode="keys", catch_duplicate_keys=True)
    except ValueError as error:
        if "duplicate key" in str(error):
            raise ReplyError(f"The reply has a key twice: {error}.") from error
        found = f"begins {excerpt(body)!r}" if body.strip() else "is empty"
        raise DamagedReplyError(f"The reply is not JSON: it {found}.", remedy=remedy_of_page(body)) from error
    if not isinstance(document, dict):
        raise ReplyError(f"The reply is not a JSON object: it begins {excerpt(body)!r}.")
    data = document.get("data")
    if not isinstance(data, list) or document.get("error"):
        words = error_message(document)
        if words:
            raise ReplyError(f"The service answered 200 with an error: {as_sentence(words)}")
        raise ReplyError(f"No data in reply: {excerpt(body)!r}.")
    return document, _sort_by_index(data, count)


def _sort_by_index(data: list[Any], count: int) -> list[Any]:
    if len(data) != count:
        raise ReplyError(f"The reply holds {counted(len(data), 'vector')} for {counted(count, 'text')}.")
    if set(map(type, data)) != {dict}:
        raise ReplyError("An item of the reply's data is not an object.")
    indices = [item.get("index") for item in data]
    embeddings = [item.get("embedding") for item in data]
    types = set(map(type, indices))  # True and 1.0 are no indices
    if types == {type(None)} or (types == {int} and indices == list(range(count))):
        return embeddings
    if types != {int} or sorted(indices) != list(range(count)):
        raise ReplyError(f"The reply's indices are not 0 to {count - 1}, each once, so the vectors cannot be assigned.")
    return [embedding for _, embedding in sorted(zip(indices, embeddings, strict=True), key=lambda pair: pair[0])]


def _to_array(embeddings: list[Any], out: NDArray[np.float32] | None) -> NDArray[np.float32]:
    types = set(map(type, embeddings))
    if types == {str}:
        vectors = _decode_equal_lengths(embeddings, out)
        return _decode_one_by_one(embeddings) if vectors is None else vectors
    if types == {list}:
        return _convert_lists(embeddings)
    kinds = ", ".join(sorted(kind.__name__ for kind in types))
    raise ReplyError(f"The reply's vectors are neither all base64 nor all lists of numbers, but: {kinds}.")


def _decode_equal_lengths(embeddings: list[str], out: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
    """Return vectors in base64 of equal length without padding; None if that is not how they come."""
    import binascii

    import numpy as np
    from pybase64 import b64decode

    length = len(embeddings[0])
    # 16 characters of base64 are three float32, so vectors can be joined before decoding.
    if length == 0 or length % 16 or set(map(len, embeddings)) != {length}:
        return None
    dimensions = length // 16 * 3
    shape = len(embeddings), dimensions
    vectors = out if out is not None and out.shape == shape else np.empty(shape, dtype=np.float32)
    for start in range(0, len(embeddings), _VECTORS_PER_DECODE):
        part = embeddings[start : start + _VECTORS_PER_DECODE]
        try:
            numbers = b64decode("".join(part), validate=True)
        except (binascii.Error, ValueError):
            return None  # padding within, for example
        if len(numbers) != len(part) * dimensions * 4:
            return None
        vectors[start : start + len(part)] = np.frombuffer(numbers, dtype="<f4").reshape(len(part), dimensions)
    return vectors


def _decode_one_by_one(embeddings: list[str]) -> NDArray[np.float32]:
    import binascii

    import numpy as np
    from pybase64 import b64decode

    # Lines may be broken, as in MIME. A blank was a plus sign, and is damage.
    lines = [embedding.replace("\r\n", "").replace("\n", "") for embedding in embeddings]
    try:
        decoded = [b64decode(line, validate=True) for line in lines]
    except (binascii.Error, ValueError) as error:
        raise DamagedReplyError(f"A vector's base64 is damaged: {error}.") from error
    size = len(decoded[0])
    uneven = next((i for i, one in enumerate(decoded) if len(one) != size), None)
    if uneven is not None:
        raise ReplyError(f"The reply's vectors differ in length: {size} and {len(decoded[uneven])} bytes.")
    if size == 0 or size % 4:
        raise DamagedReplyError(f"A vector of {size} bytes is not a row of float32 numbers.")
    return np.frombuffer(b"".join(decoded), dtype="<f4").reshape(len(decoded), -1).astype(np.float32, copy=False)


def _convert_lists(embeddings: list[list[Any]]) -> NDArray[np.float32]:
    import numpy as np

    widths = {len(embedding) for embedding in embeddings}
    if len(widths) != 1 or 0 in widths:
        raise ReplyError(f"The reply's vectors are empty or differ in length: {sorted(widths)} numbers.")
    # numpy would take a bool for a number, null for NaN, and would parse a string.
    if not {type(number) for embedding in embeddings for number in embedding} <= {float, int}:
        raise ReplyError("An element of a vector in the reply is not a number.")
    with np.errstate(all="ignore"):
        try:
            return np.array(embeddings, dtype=np.float64).astype(np.float32)
        except OverflowError as error:
            raise ReplyError("A vector of the reply holds a number too large for float32.") from error


def _check_numbers(vectors: NDArray[np.float32]) -> None:
    import numpy as np

    with np.errstate(all="ignore"):
        squares = np.einsum("ij,ij->i", vectors, vectors)
    suspect = np.flatnonzero(~((squares > _MIN_SQUARE) & (squares < _MAX_SQUARE)))
    # The few suspects are checked element by element.
    for row in suspect.tolist():
        if not np.isfinite(vectors[row]).all():
            raise ReplyError(f"Vector {row} of the reply holds a number that is not finite.")
        if not vectors[row].any():
            raise ReplyError(f"Vector {row} of the reply is all zeros, which is no embedding.")
        if vectors.shape[1] >= _MIN_MODEL_DIMENSIONS:
            raise ReplyError(f"Vector {row} of the reply has numbers too large or too small for an embedding.")


def _prompt_tokens(usage: object) -> int | None:
    if not isinstance(usage, dict):
        return None
    # Voyage gives the total only. Every text has a token: hosts that say 0 do not count.
    tokens = usage.get("total_tokens") if usage.get("prompt_tokens") is None else usage["prompt_tokens"]
    return tokens if type(tokens) is int and 0 < tokens <= _MAX_TOKENS else None
