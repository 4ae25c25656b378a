"""Faults in replies that say 200."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from functools import cache
from typing import Any

from benchmarks.faults.fault import EITHER, OURS_RETRY, RIGHT, Fault, always, changed
from benchmarks.faults.server import Reply, Request, Step, response, right_document
from benchmarks.faults.vectors import TEXTS, WIDTH, base64_of, document, vector

BOMB_MIB = 256
_VICTIM = 3


def _vectors(numbers: Any, only: int | None = None) -> Reply:
    """Return a reply whose vectors ``numbers(text)`` makes, as base64; only one of them is changed if so told."""

    def change(body: dict[str, Any], request: Request) -> None:
        for row, item in enumerate(body["data"]):
            if only is None or row == only % len(body["data"]):
                item["embedding"] = base64_of(numbers(request.texts[row]))

    return changed(change)


def _item(value: Any) -> Reply:
    """Return a reply in lists of numbers, with ``value`` in the place of one number."""

    def change(body: dict[str, Any], request: Request) -> None:
        for row, item in enumerate(body["data"]):
            item["embedding"] = list(vector(request.texts[row]))
        body["data"][-1]["embedding"][7] = value

    return changed(change)


def _with(number: float) -> Any:
    return lambda text: [*vector(text)[:-1], number]


def _cut(characters: int) -> Reply:
    def change(body: dict[str, Any], request: Request) -> None:
        for row, item in enumerate(body["data"]):
            item["embedding"] = base64_of(vector(request.texts[row]))[:-characters]

    return changed(change)


def _data(rearrange: Any) -> Reply:
    return changed(lambda body, _: body.update(data=rearrange(body["data"])))


def _indexed(indices: Sequence[Any]) -> Reply:
    def rearrange(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**item, "index": index} for item, index in zip(data, indices, strict=False)]

    return _data(rearrange)


def _without_index(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name != "index"} for item in data]


def _as_floats(body: dict[str, Any], request: Request) -> None:
    for item, text in zip(body["data"], request.texts, strict=True):
        item["embedding"] = list(vector(text))


VECTORS = [
    Fault("Vectors", "base64 cut by 3 floats", _cut(16), most=OURS_RETRY, words=("dimensions",)),
    Fault("Vectors", "base64 cut inside a float", _cut(4), most=OURS_RETRY),
    Fault("Vectors", "base64 cut inside a group of four", _cut(1), most=OURS_RETRY),
    Fault("Vectors", "one vector of another width", _vectors(lambda text: vector(text)[:-4], _VICTIM)),
    Fault("Vectors", "all vectors narrower", _vectors(lambda text: vector(text, 768)), words=("768",)),
    Fault("Vectors", "all vectors wider", _vectors(lambda text: vector(text, 3072)), words=("3072",)),
    Fault("Vectors", "NaN in base64", _vectors(_with(float("nan")), _VICTIM), words=("finite",)),
    Fault("Vectors", "infinity in base64", _vectors(_with(float("inf")), _VICTIM), words=("finite",)),
    Fault("Vectors", "a zero vector", _vectors(lambda _: [0.0] * WIDTH, _VICTIM), words=("zero",)),
    Fault("Vectors", "NaN as a number in JSON", _item(float("nan"))),
    Fault("Vectors", "null for a number", _item(None)),
    Fault("Vectors", "a string for a number", _item("0.25")),
    Fault("Vectors", "true for a number", _item(True)),
    Fault("Vectors", "a number beyond float32", _item(1e300)),
    Fault("Vectors", "null for a vector", _data(lambda data: [*data[:-1], {**data[-1], "embedding": None}])),
    Fault("Vectors", "empty vectors", _data(lambda data: [{**item, "embedding": []} for item in data])),
    Fault("Vectors", "floats although base64 was asked for", changed(_as_floats), RIGHT),
]

_COUNT = len(TEXTS)
ITEMS = [
    Fault("Items", "one missing", _data(lambda data: data[:2] + data[3:])),
    Fault("Items", "one missing, the rest numbered anew", _indexed(range(_COUNT - 1))),
    Fault("Items", "one repeated", _data(lambda data: [*data[:-1], data[0]])),
    Fault("Items", "one more than asked for", _data(lambda data: [*data, {**data[0], "index": len(data)}])),
    Fault("Items", "none", _data(lambda _: []), words=("no embedding data", "0 vectors")),
    Fault("Items", "out of order", _data(lambda data: data[::-1]), RIGHT),
    Fault("Items", "no index", _data(_without_index), RIGHT),
    Fault("Items", "index 0 on all", _indexed([0] * _COUNT)),
    Fault("Items", "index from 1", _indexed(range(1, _COUNT + 1))),
    Fault("Items", "index as strings", _indexed([str(number) for number in range(_COUNT)]), EITHER),
    Fault("Items", "index on some", _data(lambda data: [*data[:3], *_without_index(data[3:])])),
    Fault("Items", "usage null", changed(lambda body, _: body.update(usage=None)), RIGHT),
    Fault("Items", "no usage", changed(lambda body, _: body.pop("usage") and None), RIGHT),
    Fault("Items", "another model named", changed(lambda body, _: body.update(model="tiny-2")), RIGHT),
]


@cache
def bomb() -> bytes:
    """Return the right reply after very many blanks, compressed. Takes seconds the first time."""
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    blanks = b" " * (1 << 20)
    parts = [packer.compress(blanks) for _ in range(BOMB_MIB)]
    return b"".join([*parts, packer.compress(json.dumps(document(TEXTS, "base64")).encode()), packer.flush()])


def _exploding(_: Request) -> list[Step]:
    return [response(bomb(), Content_Encoding="gzip")]


def _whole(body: Any, kind: str = "application/json", **headers: str) -> Reply:
    """Return a reply whose body is made by ``body`` from the bytes of the right one."""
    return lambda request: [response(body(json.dumps(right_document(request)).encode()), 200, kind, **headers)]


def _same(body: bytes) -> bytes:
    return body


_WORDS = ("still loading",)
_SAID = "the model is still loading"
BODIES = [
    Fault("Bodies", "200 with an error object", always(response({"error": {"message": _SAID}})), words=_WORDS),
    Fault("Bodies", "200 with an error string", always(response({"error": _SAID})), words=_WORDS),
    Fault("Bodies", "200 with a message", always(response({"message": _SAID})), words=_WORDS),
    Fault("Bodies", "200 with HTML", always(response(f"<p>{_SAID}</p>", 200, "text/html")), most=6, words=_WORDS),
    Fault("Bodies", "200 with HTML called JSON", always(response(f"<p>{_SAID}</p>")), most=6, words=_WORDS),
    Fault("Bodies", "200 with nothing", always(response(b"")), most=OURS_RETRY, words=("empty",)),
    Fault("Bodies", "200 with a JSON array", always(response([_SAID])), words=_WORDS),
    Fault("Bodies", "200 with null", always(response(b"null"))),
    Fault("Bodies", "data null", always(response({"object": "list", "data": None}))),
    Fault("Bodies", "data an object", always(response({"object": "list", "data": {"0": [1.0]}}))),
    Fault("Bodies", "data of lists", always(response({"object": "list", "data": [[1.0]] * _COUNT}))),
    Fault("Bodies", "truncated JSON", _whole(lambda body: body[: len(body) // 2]), most=OURS_RETRY),
    Fault("Bodies", "right JSON called text/plain", _whole(_same, "text/plain"), RIGHT),
    Fault("Bodies", "right JSON without a content type", _whole(_same, ""), RIGHT),
    Fault("Bodies", "right JSON after a byte-order mark", _whole(lambda body: b"\xef\xbb\xbf" + body), EITHER, 6),
    Fault("Bodies", "JSON nested 100,000 deep", always(response(b"[" * 100_000)), most=OURS_RETRY),
    Fault("Bodies", "gzip that was not requested", _whole(gzip.compress, Content_Encoding="gzip"), RIGHT),
    Fault("Bodies", "truncated gzip", _whole(lambda b: gzip.compress(b)[:-900], Content_Encoding="gzip"), most=6),
    Fault("Bodies", "gzip announced, JSON sent", _whole(_same, Content_Encoding="gzip"), RIGHT),
    Fault("Bodies", "an unknown compression", _whole(_same, Content_Encoding="x-own"), EITHER),
    Fault("Bodies", f"a gzip bomb of {BOMB_MIB} MiB", _exploding),
]

FAULTS = [*VECTORS, *ITEMS, *BODIES]
