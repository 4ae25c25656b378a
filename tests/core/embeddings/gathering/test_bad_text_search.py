"""The search for one bad text in a gathered batch. No requests are sent."""

import math

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nanogpt_core.embeddings.gathering.bad_text_search import BadTextSearch, Failure, Result, halves
from nanogpt_core.embeddings.gathering.waiting import Item
from nanogpt_core.errors import AuthenticationError, BadRequestError, RequestTooLargeError, ServerError

REFUSAL = BadRequestError("bad text", status=400)


def items_of(count):
    """Return the texts of as many calls."""
    return [Item(f"text {number}", 1, None, {object(): 0}) for number in range(count)]


def search(items, fails, error=REFUSAL):
    """Run a search for a service that refuses the parts for which ``fails`` is true; return it and its requests."""
    found, requests = BadTextSearch(items, Failure(error, set())), []

    def result(part):
        requests.append(part)
        return Result(part, Failure(error, set()) if fails(part) else None)

    while not found.is_over:
        part = halves(found.suspects)[0]
        found.narrow(part, result(part))
    if found.others:
        found.note(found.others, result(found.others))
    return found, requests


@given(count=st.integers(2, 200), data=st.data())
def test_bad_text_is_the_only_suspect_after_a_logarithmic_number_of_requests(count, data):
    items = items_of(count)
    bad = items[data.draw(st.integers(0, count - 1))]
    found, requests = search(items, lambda part: bad in part)
    assert found.suspects == [bad]
    # With the first request, and one for the suspect if it is not certain: 8 for 64 texts.
    assert 1 + len(requests) + (not found.is_certain) <= 2 + math.ceil(math.log2(count))
    answered = [item for part in requests if bad not in part for item in part]
    assert sorted(item.text for item in [*answered, bad]) == sorted(item.text for item in items)


@given(count=st.integers(2, 200), data=st.data())
def test_refusal_for_the_number_of_texts_is_not_blamed_on_a_text(count, data):
    most = data.draw(st.integers(1, count - 1))
    found, _ = search(items_of(count), lambda part: len(part) > most)
    assert not found.is_certain


@pytest.mark.parametrize("error", [ServerError("no", status=500), RequestTooLargeError("no", status=413)])
def test_failure_that_can_have_another_reason_is_not_certain(error):
    items = items_of(64)
    assert search(items, lambda part: items[31] in part)[0].is_certain
    assert not search(items, lambda part: items[31] in part, error)[0].is_certain


def test_suspect_is_not_certain_after_a_request_without_all_its_texts():
    items = items_of(4)
    found = BadTextSearch(items, Failure(REFUSAL, set()))
    found.narrow(items[:2], Result(items[:1], Failure(REFUSAL, set())))
    found.narrow(items[:1], Result(items[:1], Failure(REFUSAL, set())))
    assert found.suspects == items[:1]
    assert not found.is_certain


def test_search_that_took_few_requests_is_not_certain():
    call = object()
    items = [*(Item(text, 1, None, {call: 0}) for text in ("one", "two")), *items_of(2)]
    found, requests = search(items, lambda part: items[0] in part)
    assert (found.suspects, len(requests)) == (items[:2], 2)
    assert not found.is_certain


def test_request_that_was_not_sent_is_not_answered():
    found = BadTextSearch(items_of(4), Failure(REFUSAL, set()))
    found.narrow(found.suspects[:2], Result([], None))
    assert found.answered == []
    assert not found.is_certain


def test_error_that_no_text_can_cause_ends_the_search():
    assert BadTextSearch(items_of(4), Failure(AuthenticationError("no", status=401), set())).is_over


def test_texts_of_one_call_are_not_divided():
    call = object()
    items = [Item("one", 1, None, {call: 0}), Item("two", 1, None, {call: 1})]
    assert BadTextSearch(items, Failure(REFUSAL, set())).is_over
