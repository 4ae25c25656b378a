"""Keys and entries: the options that share an entry, and those that have separate ones."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core.cache.base import (
    CacheNamespace,
    MemoryCache,
    decode_entry,
    encode_dimensions,
    encode_entry,
    entry_dimensions,
)
from nanogpt_core.errors import DimensionsError

URL = "https://example.invalid/api/v1"


def test_keys_are_equal_in_every_process():
    script = (
        "from nanogpt_core.cache.base import CacheNamespace\n"
        f"print(CacheNamespace({URL!r}, 'm', 256).key('ä text').hex())"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    # Constants, because a change of the keys invalidates every user's cache.
    assert seen == {CacheNamespace(URL, "m", 256).key("ä text").hex().encode() + b"\n"}
    assert seen == {b"0d4cf7a7f9e79f125e05816b4220303596a545f738d8a1501312327f83687b0c\n"}


namespaces = st.tuples(st.text(), st.text(), st.none() | st.integers(1, 9999))


@given(namespaces, st.text(), namespaces, st.text())
def test_different_texts_or_namespaces_have_different_keys(one, text, other, another):
    same = (one, text) == (other, another)
    assert (CacheNamespace(*one).key(text) == CacheNamespace(*other).key(another)) == same
    assert (CacheNamespace(*one).dimensions_key == CacheNamespace(*other).dimensions_key) == (one == other)
    assert CacheNamespace(*one).dimensions_key != CacheNamespace(*other).key(another)


def test_namespace_parts_are_length_prefixed():
    assert CacheNamespace("ab", "c", None).key("d") != CacheNamespace("a", "bc", None).key("d")
    assert CacheNamespace("a", "b", 12).key("3") != CacheNamespace("a", "b", 1).key("23")


@given(st.binary(), st.integers(1, 50), st.data())
def test_entry_with_any_bit_changed_is_invalid(key, width, data):
    entry = encode_entry(key, np.arange(1, width + 1, dtype=np.float32))
    assert entry_dimensions(key, entry) == width
    assert np.array_equal(decode_entry(key, entry), np.arange(1, width + 1, dtype=np.float32))
    place = data.draw(st.integers(0, len(entry) * 8 - 1))
    changed = bytearray(entry)
    changed[place // 8] ^= 1 << place % 8
    assert entry_dimensions(key, bytes(changed)) is None
    assert decode_entry(key, bytes(changed)) is None
    assert entry_dimensions(key + b"x", entry) is None
    length = data.draw(st.integers(0, len(entry) - 1))
    assert entry_dimensions(key, entry[:length]) is None
    assert entry_dimensions(key, entry + entry[:4]) is None


@given(st.binary(), st.integers(1, 9999), st.integers(0, 63))
def test_dimensions_entry_with_any_bit_changed_is_invalid(key, width, place):
    note = encode_dimensions(key, width)
    assert decode_entry(key, note) is None
    assert entry_dimensions(key, note) == width
    changed = bytearray(note)
    changed[place // 8] ^= 1 << place % 8
    assert entry_dimensions(key, bytes(changed)) is None


@pytest.mark.parametrize("nonsense", [None, 7, "text", "eight ch", b"", b"1234567", [1.0], bytearray(12), object()])
def test_other_values_are_invalid_entries(nonsense):
    assert entry_dimensions(b"key", nonsense) is None
    assert (
        entry_dimensions(
            nonsense if not isinstance(nonsense, bytes) else None, encode_entry(b"", np.ones(3, np.float32))
        )
        is None
    )


BASE = {"model": "text-embedding-3-small"}


@pytest.mark.parametrize(
    "other",
    [{"model": "text-embedding-3-large"}, {"model": "jina-embeddings-v3"}, {"dimensions": 256}, {"dimensions": 1536}],
)
def test_options_that_change_vectors_have_separate_entries(make, sandbox, other):
    cache = MemoryCache()
    make(**BASE, cache=cache).embed(["text"])
    vector = make(**{**BASE, **other}, cache=cache).embed(["text"])
    assert len(sandbox.requests) == 2
    assert np.array_equal(vector, make(**{**BASE, **other}).embed(["text"]))


def test_base_urls_have_separate_entries(make, sandbox):
    cache = MemoryCache()
    make(cache=cache).embed(["text"])
    make(cache=cache, base_url=sandbox.base_url.replace("/api/v1", "/api/paid/v1")).embed(["text"])
    assert len(sandbox.requests) == 2


def test_query_instruction_is_part_of_the_key(make, sandbox):
    cache = MemoryCache()
    plain, instructed = make(cache=cache), make(cache=cache, query_instruction="query: ")
    assert np.array_equal(plain.embed(["text"])[0], plain.embed_query("text"))
    assert len(sandbox.requests) == 1  # without an instruction a query is the same text
    query = instructed.embed_query("text")
    assert not np.array_equal(query, plain.embed_query("text"))
    assert np.array_equal(query, plain.embed(["query: text"])[0])  # the same on the wire
    assert [request.inputs for request in sandbox.requests] == [("text",), ("query: text",)]


@pytest.mark.parametrize(
    "other",
    [
        {"user": "somebody"},
        {"timeout": 3.0},
        {"batch_size": 1},
        {"max_concurrency": 1},
        {"base_url_ending": "/"},
        {"default_headers": {"X-Any": "thing"}},
        {"on_overflow": "truncate"},
        {"budget_usd": 1.0},
    ],
    ids=lambda other: next(iter(other)),
)
def test_options_that_do_not_change_vectors_share_entries(make, sandbox, other):
    cache = MemoryCache()
    make(cache=cache).embed(["text", "another"])
    if "base_url_ending" in other:
        other = {"base_url": sandbox.base_url + other["base_url_ending"]}
    make(cache=cache, **other).embed(["another", "text"])
    assert len(sandbox.requests) == 1


def test_cached_dimensions_are_checked_against_replies(embed, make, tmp_path):
    """The service changes the width of a model whose width the sources dispute."""
    from nanogpt_core.sandbox import Sandbox

    model, path = "BAAI/bge-large-en-v1.5", tmp_path / "c.db"
    with Sandbox(width_source="listed") as listed:
        port = int(listed.root_url.rpartition(":")[2])
        told = {"base_url": listed.base_url}
        assert embed(make(model, cache=path, **told), ["one", "two"]).shape == (2, 768)
    with Sandbox(width_source="true", port=port) as true:
        assert embed(make(model, **told), ["one"]).shape == (1, 1024)
        fresh = make(model, cache=path, **told)
        assert embed(fresh, ["one", "two"]).shape == (2, 768)
        for texts in (["one", "three"], ["three"]):
            with pytest.raises(DimensionsError, match=r"1024 dimensions, not 768"):
                embed(fresh, texts)
            with pytest.raises(DimensionsError, match=r"1024 dimensions, not 768"):
                embed(make(model, cache=path, **told), texts)
        from nanogpt_core.cache.admin import clear_cache, inspect_cache

        assert inspect_cache(path).widths == {768: 2}
        # An object without the cache has learned 1024, and does not mix either.
        learned = make(model, **told)
        embed(learned, ["one"])
        assert clear_cache(path) == 2
        assert embed(make(model, cache=path, **told), ["one", "three"]).shape == (2, 1024)
        assert inspect_cache(path).widths == {1024: 2}
        assert len(true.requests) > 0


def test_cache_with_mixed_dimensions_raises(embed, make, options):
    # As when two processes began one while the service changed.
    cache = MemoryCache()
    namespace = CacheNamespace(options["base_url"], "unknown/model", None)
    for text, width in (("one", 3), ("two", 5)):
        cache.put_many({namespace.key(text): encode_entry(namespace.key(text), np.ones(width, np.float32))})
    with pytest.raises(DimensionsError, match=r"cache's vectors have 5 dimensions, not 3.*clear_cache"):
        embed(make("unknown/model", cache=cache), ["one", "two"])
