"""Response parser: any bytes give the exact vectors or a ReplyError."""

import base64
import copy
import json
import math
import random
import struct
import warnings

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nanogpt_core import MODELS, get_model
from nanogpt_core._runtime.words import counted
from nanogpt_core.embeddings.response import DimensionsCheck, parse_embeddings
from nanogpt_core.errors import DamagedReplyError, DimensionsError, NanoGPTError, ReplyError
from nanogpt_core.http.error_body import error_message, excerpt

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(FINITE, min_size=width, max_size=width).filter(any), min_size=1, max_size=5)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.integers(10**30, 10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "index", "embedding"]), inner),
    max_leaves=8,
)


def packed(row):
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


def document(rows, encoding="base64"):
    data = [
        {"object": "embedding", "index": i, "embedding": packed(row) if encoding == "base64" else row}
        for i, row in enumerate(rows)
    ]
    return {"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 7, "total_tokens": 7}}


def dump(value):
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def read(value, count):
    return parse_embeddings(dump(value), count)


def refused(value, count):
    with pytest.raises(ReplyError) as caught:
        read(value, count)
    assert len(str(caught.value)) < 1000
    return caught.value


def rows_of(count, width=3):
    return [[i + 1.0, -0.5, *[0.25] * (width - 2)][:width] for i in range(count)]


@pytest.fixture(params=["base64", "float"])
def encoding(request):
    return request.param


# --- valid responses ---


@example(rows=[[1.0, 2.0, 3.0]], encoding="base64", random=random.Random(0), wider=1)
@example(rows=[[1.0, 2.0, 3.0]], encoding="base64", random=random.Random(0), wider=0)
@given(ROWS, st.sampled_from(["base64", "float"]), st.randoms(), st.sampled_from([None, -1, 0, 1]))
def test_vectors_are_exact_and_placed_by_index(rows, encoding, random, wider):
    reply = document(rows, encoding)
    random.shuffle(reply["data"])
    room = None if wider is None else np.full((len(rows), len(rows[0]) + wider), np.nan, dtype=np.float32)
    got = parse_embeddings(dump(reply), len(rows), room)
    expected = np.array(rows, dtype=np.float32)
    assert got.vectors.dtype == np.float32
    assert got.vectors.shape == expected.shape
    assert got.vectors.tobytes() == expected.tobytes() or (got.vectors == expected).all()
    assert (got.prompt_tokens, got.model) == (7, "m")


@given(ROWS, st.sampled_from(["base64", "float"]), st.booleans())
def test_vectors_without_index_are_placed_by_position(rows, encoding, null):
    reply = document(rows, encoding)
    for item in reply["data"]:
        del item["index"]
        if null:
            item["index"] = None
    assert (read(reply, len(rows)).vectors == np.array(rows, dtype=np.float32)).all()


def test_extra_fields_are_ignored(encoding):
    reply = document(rows_of(2), encoding)
    reply["x_nanogpt_pricing"] = {"cost": 1e-9, "deep": [[[]]]}
    reply["error"] = None
    reply["data"][1]["x_extra"] = ["anything", None]
    reply["usage"]["details"] = None
    assert read(reply, 2).vectors.shape == (2, 3)


def test_integers_and_subnormal_numbers_are_accepted():
    assert read(document([[1, -2, 0]], "float"), 1).vectors.tolist() == [[1.0, -2.0, 0.0]]
    got = read(document([[1e-30, 1e-60, 0.0]], "float"), 1).vectors
    assert got[0, 0] == np.float32(1e-30)


@pytest.mark.parametrize("row", [[3e38, 3e38], [1e-38, 1e-40], [-3e38, 1e-45]], ids=str)
def test_vectors_whose_squares_overflow_or_underflow_are_accepted(encoding, row):
    assert read(document([row], encoding), 1).vectors.tolist() == np.array([row], dtype=np.float32).tolist()


def test_numpy_error_settings_do_not_matter(encoding):
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(document([[1.0, 1e-40, 3e38]], encoding), 1).vectors.shape == (1, 3)
        assert read(document([[1.0, 1e-60]], "float"), 1).vectors.tolist() == [[1.0, 0.0]]
        refused(document([[1e300, 1.0]], "float"), 1)


def test_vectors_are_writable_or_can_be_copied(encoding):
    # They are handed to the caller, who may normalise in place.
    vectors = read(document(rows_of(3), encoding), 3).vectors
    writable = vectors.copy() if not vectors.flags.writeable else vectors
    writable /= 2
    assert writable[0, 0] == 0.5


# --- usage and model ---


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        *((None, None), ({}, None), ([], None), ("12", None), (12, None), ({"prompt_tokens": None}, None)),
        *(({"prompt_tokens": "12"}, None), ({"prompt_tokens": -1}, None), ({"prompt_tokens": 1.5}, None)),
        *(({"prompt_tokens": True}, None), ({"prompt_tokens": [1]}, None), ({"total_tokens": 3}, 3)),
        *(
            ({"prompt_tokens": 0}, None),
            ({"prompt_tokens": 0, "total_tokens": 0}, None),
            ({"prompt_tokens": 12, "total_tokens": 99}, 12),
        ),
    ],
    ids=str,
)
def test_invalid_usage_is_unknown_not_zero(usage, tokens):
    reply = document(rows_of(1))
    reply["usage"] = usage
    assert read(reply, 1).prompt_tokens == tokens
    del reply["usage"]
    assert read(reply, 1).prompt_tokens is None


def test_absurd_token_count_is_unknown():
    reply = document(rows_of(1))
    reply["usage"]["prompt_tokens"] = 10**400
    assert read(reply, 1).prompt_tokens is None


@pytest.mark.parametrize("model", [None, 5, ["m"], True])
def test_model_that_is_not_a_string_is_none(model):
    assert read({**document(rows_of(1)), "model": model}, 1).model is None


# --- count and indices ---


@given(ROWS, st.integers(1, 12))
def test_wrong_number_of_vectors_is_refused(rows, count):
    assume(count != len(rows))
    message = str(refused(document(rows), count))
    assert f"{counted(len(rows), 'vector')} for {counted(count, 'text')}" in message


INDEX = st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.text(max_size=2) | st.integers(10**20, 10**60)


@given(st.lists(INDEX | st.sampled_from([0, 1, 2]), min_size=1, max_size=4))
@example([True, False])
@example([0, True])
@example([0.0, 1.0])
@example(["0", "1"])
@example([0, 0])
@example([1, 2])
@example([-1, 0])
@example([0, None])
@example([None, 0])
@example([[0], [1]])
@example([{}, 1])
@example([10**30, 0])
@example([1, 0])
def test_indices_must_be_a_permutation_or_all_missing(indices):
    rows = rows_of(len(indices))
    reply = document(rows)
    for item, index in zip(reply["data"], indices, strict=True):
        item["index"] = index
    integers = [index for index in indices if type(index) is int]
    if all(index is None for index in indices):
        assert read(reply, len(rows)).vectors.tolist() == rows
    elif sorted(integers) == list(range(len(rows))) and len(integers) == len(indices):
        vectors = read(reply, len(rows)).vectors
        assert [vectors[index].tolist() for index in indices] == rows
    else:
        refused(reply, len(rows))


@pytest.mark.parametrize("item", [None, "x", 5, [], [1.0], {}, {"index": 0}, {"index": 0, "embedding": None}], ids=str)
def test_items_without_a_vector_are_refused(item):
    refused({**document(rows_of(1)), "data": [item]}, 1)
    refused({**document(rows_of(1)), "data": [*document(rows_of(1))["data"], item]}, 2)


# --- widths and numbers ---


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.sampled_from(["base64", "float"]))
def test_uneven_and_empty_vectors_are_refused(widths, encoding):
    reply = document([[1.0] * width for width in widths], encoding)
    if len(set(widths)) == 1 and widths[0]:
        assert read(reply, len(widths)).vectors.shape == (len(widths), widths[0])
    else:
        refused(reply, len(widths))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("row", [0, 2])
def test_numbers_that_are_not_finite_are_refused_by_row(encoding, bad, row):
    rows = rows_of(3)
    rows[row][1] = bad
    assert f"Vector {row}" in str(refused(document(rows, encoding), 3))


@pytest.mark.parametrize("zero", [0.0, -0.0, 0])
def test_zero_vector_is_refused_by_row(encoding, zero):
    assert "Vector 1" in str(refused(document([[1.0, 0.0], [zero, zero]], encoding), 2))


@pytest.mark.parametrize(
    "number",
    [None, True, False, "1.0", "", [1.0], [], {}, 1e39, -1e300, 10**39, 10**400, -(10**4000)],
    ids=lambda v: f"{v!r:.12}",
)
def test_value_that_does_not_fit_float32_is_refused(number):
    refused(document([[1.0, 2.0], [number, 1.0]], "float"), 2)


def test_vector_that_underflows_to_zero_in_float32_is_refused():
    refused(document([[1e-60, -1e-70]], "float"), 1)


@pytest.mark.parametrize("part", [b'"index":0', b'"embedding":"AACAPw=="', b'"object":"embedding"'])
def test_duplicate_fields_are_refused(part):
    item = b'{"index":0,"embedding":"AAAAQA==","object":"embedding",' + part + b"}"
    with pytest.raises(ReplyError, match="twice") as caught:
        parse_embeddings(b'{"data":[' + item + b"]}", 1)
    assert not caught.value.transient


def test_base64_and_floats_in_one_response_are_refused():
    mixed = document(rows_of(2))
    mixed["data"][1]["embedding"] = [1.0, 2.0, 3.0]
    refused(mixed, 2)


@pytest.mark.parametrize(
    "damage",
    [
        *(lambda text: text[:-1], lambda text: text[:-4], lambda text: text[4:], lambda text: text + "AAAA"),
        *(lambda text: text.rstrip("="), lambda text: text[:8] + " " + text[8:], lambda text: " " + text),
        *(lambda _: "", lambda _: "\n", lambda text: "é" + text[1:], lambda text: "*" + text[1:]),
        *(
            lambda text: text.replace("A", "-"),
            lambda text: "data:;base64," + text,
            lambda _: "=" * 16,
            lambda _: "AA==",
        ),
    ],
)
def test_damaged_base64_is_refused(damage):
    rows = [[1.0, 2.0, 3.0, 4.0], [0.5, 2.0, 3.0, 4.0]]
    for which in (0, 1):
        reply = document(rows)
        reply["data"][which]["embedding"] = damage(reply["data"][which]["embedding"])
        refused(reply, 2)


@pytest.mark.parametrize("numbers", [3, 4, 60])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["LF", "CRLF"])
def test_base64_in_lines_is_accepted(numbers, end):
    rows = [[float(row), *range(1, numbers)] for row in range(2)]
    reply = document(rows)
    for item in reply["data"]:
        item["embedding"] = base64.encodebytes(base64.b64decode(item["embedding"])).decode().replace("\n", end)
    assert read(reply, 2).vectors.tolist() == rows


@pytest.mark.parametrize("kept_bits", [13, 24])
def test_big_endian_numbers_are_refused(kept_bits):
    numbers = np.linspace(-1, 1, 64, dtype=np.float32)
    numbers = (numbers.view(np.uint32) >> (24 - kept_bits) << (24 - kept_bits)).view(np.float32)
    reply = document([np.ones(64).tolist()] * 2)
    reply["data"][1]["embedding"] = base64.b64encode(numbers.astype(">f4").tobytes()).decode()
    assert "Vector 1" in str(refused(reply, 2))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", ["<f2", ">f2", ">f4", "<f8", ">f8", "<i2"])
def test_numbers_of_another_kind_are_refused(kind, count):
    numbers = np.linspace(-1, 1, 768) / 16  # about the length 1
    numbers = numbers * 1000 if kind == "<i2" else numbers
    reply = document([[1.0]] * count)
    for item in reply["data"]:
        item["embedding"] = base64.b64encode(numbers.astype(kind).tobytes()).decode()
    assert "Vector 0" in str(refused(reply, count))


def test_base64_truncated_between_numbers_is_refused_by_known_width():
    # If a response has one vector, only the known width shows that numbers are missing.
    reply = document([[1.0, 2.0, 3.0, 4.0]])
    reply["data"][0]["embedding"] = reply["data"][0]["embedding"][:16]
    check = DimensionsCheck(get_model("lab/new"), learned=4)
    with pytest.raises(DimensionsError):
        check.accept(read(reply, 1).vectors.shape[1])


# --- documents that are not a response ---


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"  \r\n ", "empty"),
        (b"<html><body><h1>502 Bad Gateway</h1></body></html>", "502 Bad Gateway"),
        (b"\xff\xfe\x00binary", "begins"),
        (b"\x1f\x8b\x08\x00 gzip", "begins"),
        (b"null", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"12", "not a JSON object"),
        (b"{}", "No data"),
        (b'{"data": null}', "No data"),
        (b'{"data": "x"}', "No data"),
        (b'{"data": {}}', "No data"),
        (b'{"error": {"message": "the model is asleep", "code": 5}}', "the model is asleep. Try"),
        (b'{"error": "busy!"}', "busy! Try"),
        (b'{"error": "Insufficient balance", "status": 402}', "Insufficient balance. Try"),
        (b'{"message": "rate limited"}', "rate limited. Try"),
        (b'{"detail": "no such thing"}', "no such thing. Try"),
        (b'{"error": {"type": "odd"}}', "odd"),
        (b'data: {"data": []}\n\n', "begins"),
    ],
    ids=lambda value: f"{value!r:.30}",
)
def test_other_documents_are_refused_with_their_own_message(body, words):
    assert words in str(refused(body, 1))


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"data": [', b"{" * 50])
def test_truncated_response_is_a_damaged_reply_error(body):
    assert isinstance(refused(body, 1), DamagedReplyError)
    assert not isinstance(refused(b"{}", 1), DamagedReplyError)


@pytest.mark.parametrize("depth", [50, 150, 250, 5_000, 200_000])
@pytest.mark.parametrize(
    "around",
    [
        b"%s",
        b'{"error": %s}',
        b'{"data": %s}',
        b'{"data": [{"index": 0, "embedding": %s}]}',
        b'{"data": [{"index": %s}]}',
    ],
)
def test_deep_nesting_is_refused(depth, around):
    refused(around % (b"[" * depth + b"]" * depth), 1)
    refused(around % (b'{"error":' * depth + b"1" + b"}" * depth), 1)


@given(ROWS, st.sampled_from(["base64", "float"]), st.data())
def test_response_truncated_at_any_byte_is_refused(rows, encoding, data):
    body = dump(document(rows, encoding))
    refused(body[: data.draw(st.integers(0, len(body) - 1))], len(rows))


# --- mutated and random bytes ---


def judge(body, count):
    """Parse ``body`` with the standard library only, and return the vectors."""
    document = json.loads(body)
    items = document["data"]
    placed = {}
    for position, item in enumerate(items):
        index = item.get("index")
        placed[position if index is None else index] = item["embedding"]
    rows = []
    for index in range(count):
        vector = placed[index]
        if isinstance(vector, str):
            raw = base64.b64decode(vector, validate=True)
            vector = struct.unpack(f"<{len(raw) // 4}f", raw)
        rows.append([np.float32(number) for number in vector])
    return np.array(rows, dtype=np.float32)


def right_or_refused(body, count):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            got = parse_embeddings(body, count)
        except ReplyError as error:
            str(error).encode()
            return
        with np.errstate(over="ignore"):
            expected = judge(body, count)
    assert got.vectors.shape == expected.shape == (count, got.vectors.shape[1])
    assert got.vectors.dtype == np.float32
    assert (got.vectors == expected).all()
    assert np.isfinite(got.vectors).all()
    assert got.vectors.any(axis=1).all()


@given(ROWS, st.sampled_from(["base64", "float"]), st.data())
def test_mutated_bytes_are_parsed_exactly_or_refused(rows, encoding, data):
    body = bytearray(dump(document(rows, encoding)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        change = data.draw(st.sampled_from(["set", "drop", "insert", "swap", "copy"]))
        if change == "set":
            body[at] = data.draw(st.integers(0, 255) | st.sampled_from(list(b'0123456789{}[]",:=+-eE. ')))
        elif change == "drop":
            del body[at : at + data.draw(st.integers(1, 9))]
        elif change == "insert":
            body[at:at] = data.draw(
                st.binary(max_size=4) | st.sampled_from([b"null", b"NaN", b"0", b",", b"[]", b"1e999"])
            )
        elif change == "swap":
            body[at:] = body[at:][::-1] if data.draw(st.booleans()) else body[at:] + body[:1]
        else:
            body[at:at] = body[data.draw(st.integers(0, len(body) - 1)) :][:20]
        assume(body)
    right_or_refused(bytes(body), len(rows))


def paths(value, path=()):
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths(child, (*path, key))


@given(ROWS, st.sampled_from(["base64", "float"]), st.data())
def test_mutated_structures_are_parsed_exactly_or_refused(rows, encoding, data):
    reply = document(rows, encoding)
    for _ in range(data.draw(st.integers(1, 3))):
        *parents, last = data.draw(st.sampled_from([path for path in paths(reply) if path]))
        place = reply
        for key in parents:
            place = place[key]
        change = data.draw(st.sampled_from(["replace", "drop", "repeat"]))
        if change == "drop":
            del place[last]
        elif change == "repeat" and isinstance(place, list):
            place.insert(data.draw(st.integers(0, len(place))), copy.deepcopy(place[last]))
        else:
            place[last] = data.draw(JSON)
    right_or_refused(dump(reply), len(rows))


@given(st.binary(max_size=80) | JSON.map(dump), st.integers(1, 5))
def test_any_bytes_are_parsed_or_refused(body, count):
    right_or_refused(body, count)


# --- error messages ---


@given(JSON)
def test_error_message_is_one_short_line_for_any_document(value):
    words = error_message(value)
    assert len(words) <= 301
    assert "\n" not in words


@given(st.text(max_size=2000) | st.binary(max_size=4000))
def test_excerpt_is_one_short_line(text):
    shown = excerpt(text)
    assert len(shown) <= 301
    assert shown == " ".join(shown.split())


# --- the width check ---

BGE = MODELS["BAAI/bge-large-en-v1.5"]


def test_dimensions_check_keeps_its_first_width():
    for first, second in ((768, 1024), (1024, 768)):
        check = DimensionsCheck(BGE)
        assert check.dimensions is None
        check.accept(first)
        check.accept(first)
        assert check.dimensions == check.learned == first
        with pytest.raises(DimensionsError) as caught:
            check.accept(second)
        assert caught.value.width == second
        assert str(first) in str(caught.value)
        assert check.dimensions == first


@given(st.sampled_from(list(MODELS)), st.integers(0, 5000))
def test_known_model_accepts_only_the_widths_of_its_sources(name, width):
    check = DimensionsCheck(MODELS[name])
    if width in MODELS[name].widths:
        check.accept(width)
        assert check.dimensions == width
    else:
        with pytest.raises(DimensionsError):
            check.accept(width)
        assert check.learned is None


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_unknown_model_keeps_its_first_width(first, second):
    check = DimensionsCheck(get_model("lab/new"))
    assert check.dimensions is None
    check.accept(first)
    if first == second:
        check.accept(second)
    else:
        with pytest.raises(DimensionsError):
            check.accept(second)


def test_requested_dimensions_are_the_only_accepted_width():
    check = DimensionsCheck(MODELS["text-embedding-3-small"], dimensions=256)
    assert check.dimensions == 256
    assert not check.needs_live_list
    with pytest.raises(DimensionsError, match="not 256"):
        check.accept(1536)
    check.accept(256)


def test_added_source_allows_its_width():
    check = DimensionsCheck(MODELS["BAAI/bge-m3"])
    with pytest.raises(DimensionsError):
        check.accept(512)
    check.add_source(None)
    check.add_source(512)
    check.accept(512)
    with pytest.raises(DimensionsError):
        check.accept(1024)


def test_response_errors_are_nanogpt_errors():
    for kind in (ReplyError, DamagedReplyError, DimensionsError):
        assert issubclass(kind, ReplyError)
        assert issubclass(kind, NanoGPTError)
