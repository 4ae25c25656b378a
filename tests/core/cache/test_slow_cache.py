"""A cache of the caller's own that answers late, or never: a call with a deadline goes on without it."""

import threading

import numpy as np
import pytest

from nanogpt_core.cache import lookup
from nanogpt_core.embeddings.embedder import Embedder

MODEL = "text-embedding-3-small"


class Hanging:
    """A cache whose method ``hangs`` does not return before ``over`` is set."""

    def __init__(self, hangs):
        self._hangs, self.over, self.calls = hangs, threading.Event(), []

    def get_many(self, keys):
        return self._call("get_many", {}) if keys else {}

    def put_many(self, _entries):
        self._call("put_many", None)

    def _call(self, name, result):
        self.calls.append(name)
        if name == self._hangs:
            assert self.over.wait(600)
        return result


@pytest.fixture(params=["get_many", "put_many"])
def hanging(request):
    cache = Hanging(request.param)
    yield cache
    cache.over.set()


def test_call_with_a_deadline_goes_on_without_a_cache_that_hangs(embed, make, hanging, monkeypatch):
    monkeypatch.setattr(lookup, "_WAIT_SHARE", 0.0003)  # of ten minutes
    with pytest.warns(RuntimeWarning, match="no answer within .* seconds") as caught:
        vectors = embed(make(MODEL, cache=hanging, deadline=600), ["one", "two"])
    assert len(caught) == 1
    assert np.array_equal(vectors, make(MODEL).embed(["one", "two"]))
    assert not hanging.over.is_set()


def test_errors_of_a_cache_are_those_of_its_own_with_a_deadline(embed, make):
    class Failing(Hanging):
        def get_many(self, _keys):
            raise LookupError("away")

    with pytest.warns(RuntimeWarning, match="LookupError: away"):
        embed(make(MODEL, cache=Failing(None), deadline=600), ["one"])


def test_lookups_end_with_the_deadline(options):
    cache = Hanging(None)
    embedder = Embedder(MODEL, cache=cache, deadline=600, **options)
    found = embedder._pipeline._cache_lookup(lookup.Deadline.after(-1))
    assert list(found.find([f"text {number}" for number in range(2000)])) == []
    assert cache.calls == []
