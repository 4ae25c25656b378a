"""Gathering: small calls that have to wait share a request, sync and async, and stay independent of each other."""

import asyncio
import contextlib
import itertools
import linecache
import os
import signal
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import fresh_process
from nanogpt_core import MemoryCache
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.embeddings.gathering import gatherer, small_call
from nanogpt_core.errors import (
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    NanoGPTError,
    PermissionDeniedError,
    ReplyError,
    RequestTimeoutError,
    ServerError,
    StatusError,
    TextTooLongError,
)

GUARD_SECONDS = 60
MODEL = "text-embedding-3-small"
WIDTH = 8


# --- one request for many calls ---


def test_waiting_queries_share_one_request(together, held):
    server = held()
    embedder = server.embedder()
    texts = ["first", *(f"query {number}" for number in range(20))]
    results = together(server, [(embedder, text) for text in texts])
    assert all(server.right(vector, text) for vector, text in zip(results, texts, strict=True))
    assert server.sent == [texts[1:]]  # in the order of the calls


def test_small_document_calls_and_queries_share_one_request(together, held):
    server = held()
    embedder = server.embedder(query_instruction="Q: ")
    calls = [(embedder, ["first"]), (embedder, ["one", "two", "one"]), (embedder, "three"), (embedder, ["four"])]
    _, documents, query, single = together(server, calls, queued=4)
    assert all(server.right(row, text) for row, text in zip(documents, ["one", "two", "one"], strict=True))
    assert server.right(query, "Q: three")
    assert server.right(single[0], "four")
    assert sorted(server.sent[0]) == ["Q: three", "four", "one", "two"]
    assert len(server.sent) == 1


@pytest.mark.parametrize(
    "options", [{"user": "another"}, {"on_overflow": "truncate"}, {"default_headers": {"X-Team": "search"}}], ids=str
)
def test_objects_with_the_same_options_share_and_others_do_not(together, held, options):
    server = held()
    one, twin, other = server.embedder(), server.embedder(cache=None, deadline=60), server.embedder(**options)
    results = together(server, [(one, "first"), (one, "a"), (twin, "b"), (other, "c")], queued=2)
    assert all(server.right(vector, text) for vector, text in zip(results, ["first", "a", "b", "c"], strict=True))
    assert sorted(map(sorted, server.sent)) == [["a", "b"], ["c"]]


def test_calls_go_at_once_one_by_one_if_a_slot_is_free(query, serve, right_query):
    server = serve()
    embedder = server.embedder()
    for number in range(5):
        right_query(query(embedder, f"text {number}"), f"text {number}")
    assert [len(seen.texts) for seen in server.requests] == [1] * 5


@pytest.fixture
def right_query(faults):
    def check(vector, text):
        assert (vector == faults.vector_of(text, len(vector))).all()

    return check


def test_coalesce_false_sends_each_call_by_itself(together, held):
    server = held()
    embedder = server.embedder(coalesce=False)
    texts = ["first", "a", "b", "a"]
    results = together(server, [(embedder, text) for text in texts], queued=0)
    assert all(server.right(vector, text) for vector, text in zip(results, texts, strict=True))
    assert sorted(server.sent) == [["a"], ["a"], ["b"]]


def test_requests_keep_to_the_batch_size(together, held):
    server = held()
    embedder = server.embedder(batch_size=3)
    texts = ["first", *(f"query {number}" for number in range(8))]
    results = together(server, [(embedder, text) for text in texts])
    assert all(server.right(vector, text) for vector, text in zip(results, texts, strict=True))
    assert server.sent == [texts[1:4], texts[4:7], texts[7:]]


def test_call_with_its_own_batch_size_or_many_texts_goes_by_itself(serve, right_query):
    server = serve()
    embedder = server.embedder()
    many = [f"text {number}" for number in range(200)]
    right_query(embedder.embed(["one", "two"], batch_size=2)[1], "two")
    right_query(embedder.embed(many)[199], "text 199")
    assert server.requests[0].texts == ["one", "two"]
    assert sorted(text for seen in server.requests[1:] for text in seen.texts) == sorted(many)


def test_tasks_of_one_turn_of_the_event_loop_share_a_request_though_slots_are_free(serve, right_query):
    server = serve()
    embedder = server.embedder()

    async def main():
        await embedder.aembed_query("first")  # makes the client, in other turns
        return await asyncio.gather(*[embedder.aembed_query(f"query {number}") for number in range(30)])

    for number, vector in enumerate(asyncio.run(main())):
        right_query(vector, f"query {number}")
    assert [len(seen.texts) for seen in server.requests] == [1, 30]


def test_calls_that_share_a_request_ask_the_live_list_for_the_dimensions_once(serve, faults):
    def answer(seen):
        if seen.path.endswith("/embedding-models"):
            return faults.response({"data": [{"id": "BAAI/bge-m3", "dimensions": 6}]})
        return faults.good(seen)  # 6 dimensions; the catalog says 1024

    async def main():
        await embedder._pipeline.client.aget_ready()  # in other turns of the event loop
        return await asyncio.gather(*(embedder.aembed_query(f"query {number}") for number in range(20)))

    server = serve(answer)
    embedder = server.embedder("BAAI/bge-m3")
    vectors = asyncio.run(main())
    assert all(np.array_equal(vector, faults.vector_of(f"query {number}")) for number, vector in enumerate(vectors))
    assert [seen.path.rpartition("/")[2] for seen in server.requests] == ["embeddings", "embedding-models"]


def test_same_text_under_way_is_sent_once(together, held):
    server = held()
    embedder = server.embedder()
    calls = [(embedder, text) for text in ("first", "first", "a", "a", "b", "first", ["a", "b", "c"])]
    results = together(server, calls, queued=3)
    for (_, text), vector in zip(calls[:-1], results, strict=False):
        assert server.right(vector, text)
    assert all(server.right(row, text) for row, text in zip(results[-1], ["a", "b", "c"], strict=True))
    assert sorted(server.sent[0]) == ["a", "b", "c"]
    assert len(server.server.requests) == 2
    results[0][:] = 0  # the results are not the same array
    assert server.right(results[1], "first")


def test_texts_of_a_call_in_flight_are_not_sent_again_for_other_calls(together, held):
    server = held()
    embedder = server.embedder()
    calls = [(embedder, ["first", "x", "y", "z"]), (embedder, "z"), (embedder, ["y", "first"]), (embedder, "a")]
    _, one, two, _ = together(server, calls, queued=1)
    assert server.right(one, "z")
    assert server.right(two[0], "y")
    assert server.right(two[1], "first")
    assert [seen.texts for seen in server.server.requests] == [["first", "x", "y", "z"], ["a"]]


def test_caller_may_change_the_lists_and_arrays_that_it_gets(together, held):
    server = held()
    embedder = server.embedder()
    _, one, two = together(server, [(embedder, "first"), (embedder, "a"), (embedder, "b")])
    one[:] = 0
    assert server.right(two, "b")


# --- errors stay with their call ---


def refuses(faults, bad, answer=None):
    refusal = answer or faults.response({"error": {"message": "forbidden words", "code": "content"}}, 400)
    return lambda seen: refusal if any(bad in text for text in seen.texts) else None


@pytest.mark.parametrize("position", [0, 1, 20, 31, 32, 63])
def test_one_bad_text_among_64_fails_only_its_own_call_within_8_requests(together, held, faults, position):
    server = held(refuses(faults, "bad"))
    embedder = server.embedder()
    texts = [f"query {number}" if number != position else "a bad query" for number in range(64)]
    _, *results = together(server, [(embedder, text) for text in ["first", *texts]])
    assert type(results[position]) is BadRequestError
    assert "forbidden words" in str(results[position])
    assert all(server.right(vector, text) for vector, text in zip(results, texts, strict=True) if "bad" not in text)
    assert len(server.sent) <= 8


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"message": "dimensions must be at most 1024"}),
        (400, {"message": "Invalid value.", "code": "invalid_parameter_value", "param": "dimensions"}),
        (400, {"message": "Unknown parameter: 'input_type'."}),
        (400, {"message": "Your account has been suspended: inputs break the content policy"}),
        (402, {"message": "Insufficient balance"}),
        (403, {"message": "Model not allowed.", "code": "model_not_allowed"}),
        (404, {"message": "The model does not exist.", "code": "model_not_found"}),
        (415, {"message": "Unsupported Content-Type"}),
    ],
    ids=str,
)
def test_error_that_no_text_can_cause_takes_one_request_for_64_calls(together, held, faults, status, error):
    server = held(lambda seen: None if seen.texts == ["first"] else faults.response({"error": error}, status))
    embedder = server.embedder()
    _, *results = together(server, [(embedder, text) for text in ["first", *(f"query {n}" for n in range(64))]])
    assert all(isinstance(result, StatusError) and result.status == status for result in results)
    assert len(set(map(id, results))) == 64
    assert len(server.sent) == 1


@pytest.mark.parametrize("bad", [(5,), (0, 15), (3, 4, 9)], ids=str)
@pytest.mark.parametrize("first_number", [0, 1])
def test_text_that_the_service_names_is_not_searched_for(together, held, faults, bad, first_number):
    def answer(seen):
        position = next((n for n, text in enumerate(seen.texts) if "bad" in text), None)
        error = {"message": "Invalid string.", "param": f"input[{(position or 0) + first_number}]"}
        return None if position is None else faults.response({"error": error}, 400)

    server = held(answer)
    embedder = server.embedder()
    texts = [f"query {number}" if number not in bad else f"bad {number}" for number in range(16)]
    _, *results = together(server, [(embedder, text) for text in ["first", *texts]])
    for result, text in zip(results, texts, strict=True):
        assert type(result) is BadRequestError if "bad" in text else server.right(result, text)
        if "bad" in text and not first_number:
            assert str(result).count("it is the text at position 0 (") == (result.param != "input[0]")
    if not first_number:
        assert len(server.sent) <= 2 * len(bad)
    elif len(bad) == 1:
        assert len(server.sent) <= 9  # a wrong name is followed once


def test_error_during_a_search_that_no_text_can_cause_fails_all_calls(together, held, faults):
    left = iter([faults.response({"error": {"message": "no"}}, 400)])
    refused = faults.response({"error": {"message": "Insufficient balance"}}, 402)
    server = held(lambda seen: None if seen.texts == ["first"] else next(left, refused))
    embedder = server.embedder()
    _, *results = together(server, [(embedder, text) for text in ["first", *(f"query {n}" for n in range(16))]])
    assert all(isinstance(result, StatusError) and result.status == 402 for result in results)
    assert len(server.sent) == 2


def test_named_text_has_its_position_in_the_list_of_its_own_call(together, held, faults):
    def answer(seen):
        error = (
            {"message": "No such language.", "param": f"input[{seen.texts.index('bad')}]"}
            if "bad" in seen.texts
            else None
        )
        return error and faults.response({"error": error}, 400)

    server = held(answer)
    embedder = server.embedder()
    _, a, error, d = together(server, [(embedder, texts) for texts in ["first", "a", ["b", "c", "bad"], "d"]], queued=5)
    assert server.right(a, "a")
    assert server.right(d, "d")
    assert error.positions == (2,)
    # Threads may queue their texts in another order; the message says the position if it is not that in the request.
    assert ("at position 2 (counted from 0)" in str(error)) == (error.param != "input[2]")


def test_named_text_under_way_has_its_position_in_the_list_of_each_call(together, held, faults):
    error = {"message": "Invalid string.", "param": "input[0]"}
    server = held(lambda seen: faults.response({"error": error}, 400) if "first" in seen.texts else None)
    embedder = server.embedder()
    own, shared = together(server, [(embedder, "first"), (embedder, ["good", "first"])], queued=1)
    assert (own.positions, shared.positions) == ((0,), (1,))
    assert "In this call" not in str(own)
    assert "In this call it is the text at position 1 (counted from 0)" in str(shared)
    assert server.sent == []


def test_error_of_all_calls_that_names_a_text_says_whose_it_is(together, held, faults):
    error = {"message": "Not supported.", "param": "input[1]", "code": "unsupported_value"}
    server = held(lambda seen: None if seen.texts == ["first"] else faults.response({"error": error}, 400))
    embedder = server.embedder()
    _, *results = together(server, [(embedder, text) for text in ["first", "a", "b", "c"]])
    of_another_call = ["It is a text of another call" in str(result) for result in results]
    assert sorted(of_another_call) == [False, True, True]
    assert "the text at position 0 (" in str(results[of_another_call.index(False)])


@pytest.mark.parametrize("bad", [(3, 4), (0, 15), range(16), range(0, 16, 2)], ids=str)
def test_several_bad_texts_fail_only_their_own_calls(together, held, faults, bad):
    server = held(refuses(faults, "bad"))
    embedder = server.embedder()
    texts = [f"query {number}" if number not in bad else f"bad {number}" for number in range(16)]
    _, *results = together(server, [(embedder, text) for text in ["first", *texts]])
    for result, text in zip(results, texts, strict=True):
        assert type(result) is BadRequestError if "bad" in text else server.right(result, text)
    assert len(server.sent) <= 32
    failed = [result for result in results if isinstance(result, BadRequestError)]
    assert len(set(map(id, failed))) == len(bad)


def test_refusal_of_every_request_takes_hardly_more_requests_than_calls(together, held, faults):
    server = held(refuses(faults, "query"))
    embedder = server.embedder()
    results = together(server, [(embedder, text) for text in ["first", *(f"query {n}" for n in range(32))]])
    assert all(type(result) is BadRequestError for result in results[1:])
    assert len(server.sent) <= 48


def test_text_that_crashes_the_host_fails_only_its_own_call(together, held, faults):
    server = held(refuses(faults, "bad", faults.response("", 500)))
    embedder = server.embedder()
    _, *results = together(server, [(embedder, text) for text in ["first", "a", "bad", "c", "d"]])
    assert type(results[1]) is ServerError
    assert all(server.right(results[n], text) for n, text in ((0, "a"), (2, "c"), (3, "d")))


@pytest.fixture
def zero_vector(faults):
    """Return a function that answers requests with the text "bad", for which it has a zero vector."""

    def answer(seen):
        if "bad" not in seen.texts:
            return None
        document = faults.document(seen.texts, "float", WIDTH)
        document["data"][seen.texts.index("bad")]["embedding"] = [0.0] * WIDTH
        return faults.response(document)

    return answer


def test_text_with_an_invalid_vector_fails_only_its_own_call(together, held, zero_vector):
    server = held(zero_vector)
    embedder = server.embedder()
    _, *results = together(server, [(embedder, text) for text in ["first", "a", "bad", "c"]])
    assert type(results[1]) is ReplyError
    assert "all zeros" in str(results[1])
    assert server.right(results[0], "a")
    assert server.right(results[2], "c")


@pytest.mark.parametrize("failure", [503, 429, "reset"])
@pytest.mark.parametrize("refusal", [200, 400, 403, 500])
def test_transient_error_during_the_search_for_a_bad_text_is_retried(
    together, held, faults, zero_vector, refusal, failure
):
    refused = refuses(faults, "bad", faults.response({"error": {"message": "flagged by moderation"}}, refusal))
    once = iter([faults.RESET if failure == "reset" else faults.response("", failure, Retry_After="0")])

    def answer(seen):
        refusal_of_bad = zero_vector(seen) if refusal == 200 else refused(seen)
        return refusal_of_bad or (None if seen.texts == ["first"] else next(once, None))

    server = held(answer)
    embedder = server.embedder(max_retries=2)
    texts = ["a", "b", "bad", "c", "d"]
    with fake_clock():
        _, *results = together(server, [(embedder, text) for text in ["first", *texts]])
    assert [type(result) for result in results if isinstance(result, Exception)] == [
        {200: ReplyError, 400: BadRequestError, 403: PermissionDeniedError, 500: ServerError}[refusal]
    ]
    assert all(server.right(vector, text) for vector, text in zip(results, texts, strict=True) if text != "bad")
    # A second text can be the reason for a 503 after a 500. It is searched for, and not retried.
    assert embedder.usage.retries == {500: 2}.get(refusal, 0) + ((refusal, failure) != (500, 503))


@pytest.mark.parametrize("refusal", [200, 400, 403])
def test_outage_during_the_search_for_a_bad_text_uses_up_the_retries_of_one_request(
    together, held, faults, zero_vector, refusal
):
    refused = refuses(faults, "bad", faults.response({"error": {"message": "flagged by moderation"}}, refusal))
    left = iter([zero_vector if refusal == 200 else refused])
    outage = faults.response("", 503)
    server = held(lambda seen: None if seen.texts == ["first"] else next(left, lambda _: outage)(seen))
    embedder = server.embedder(max_retries=5)
    with fake_clock():
        _, *results = together(
            server, [(embedder, text) for text in ["first", "bad", *(f"query {n}" for n in range(63))]]
        )
    assert {type(result) for result in results} == {ServerError}
    assert len(server.sent) <= 20


def too_long(faults, most):
    refusal = {"error": {"message": f"This model's maximum context length is {most} tokens", "code": "too_long"}}
    return lambda seen: faults.response(refusal, 400) if sum(map(len, seen.texts)) > most else None


@pytest.mark.parametrize("on_overflow", ["error", "truncate"])
def test_text_that_the_host_finds_too_long_concerns_only_its_own_call(together, held, faults, on_overflow):
    server = held(too_long(faults, 60))
    embedder = server.embedder(on_overflow=on_overflow)
    long = "many words " * 8
    calls = [(embedder, text) for text in ["first", "a", "b", ["c", long], "d"]]
    _, *results = together(server, calls, queued=5)
    assert all(server.right(results[n], text) for n, text in ((0, "a"), (1, "b"), (3, "d")))
    if on_overflow == "error":
        assert type(results[2]) is TextTooLongError
        assert results[2].positions == (1,)
    else:
        assert server.right(results[2][0], "c")
        assert server.right(results[2][1], long[: len(long) // 2])


def test_error_of_a_gathered_text_that_is_too_long_names_a_position_only_in_a_list(together, held, faults):
    server = held(too_long(faults, 60))
    embedder = server.embedder()
    calls = [(embedder, text) for text in ["first", "a", "many words " * 8, ["c", "other words " * 8]]]
    _, _, query, listed = together(server, calls, queued=4)
    assert str(query).startswith("The service refuses the text as too long: ")
    assert str(listed).startswith("The service refuses the text at position 1 as too long: ")


def test_gathered_batch_over_the_hosts_limit_is_divided_and_the_limit_learned(together, held, faults):
    server = held(too_long(faults, 60))
    embedder = server.embedder()
    texts = ["first", *(f"query {number:02}" for number in range(12))]
    results = together(server, [(embedder, text) for text in texts])
    assert all(server.right(vector, text) for vector, text in zip(results, texts, strict=True))
    sent = len(server.sent)
    assert all(server.right(vector, text) for vector, text in zip(embedder.embed(texts[1:]), texts[1:], strict=True))
    assert max(sum(map(len, request)) for request in server.sent[sent:]) <= 60  # none is refused


async def test_learned_limit_stays_when_smaller_parts_are_accepted(serve, faults):
    server = serve(lambda seen: faults.response("", 413) if len(seen.texts) > 4 else faults.good(seen))
    embedder = server.embedder(MODEL, dimensions=WIDTH)
    await embedder.aembed_query("not gathered")  # imports the SDK
    await asyncio.gather(*(embedder.aembed_query(f"first {number:02}") for number in range(32)))
    texts = [f"query {number:02}" for number in range(8)]
    await asyncio.gather(*map(embedder.aembed_query, texts))
    assert sorted(seen.texts for seen in server.requests if seen.texts[0] in texts) == [texts[:4], texts[4:]]


async def test_parts_of_a_batch_over_the_hosts_limit_do_not_wait_for_each_other(serve, faults):
    refused, parts = too_long(faults, 60), threading.Barrier(3)

    def answer(seen):
        if seen.texts[0].startswith("query"):
            parts.wait(GUARD_SECONDS)
        return refused(seen) or faults.good(seen)

    server = serve(answer)
    embedder = server.embedder(MODEL, dimensions=WIDTH)
    await embedder.aembed([f"other {number:02}" for number in range(12)])  # which shows the host's limit
    texts = [f"query {number:02}" for number in range(18)]
    vectors = await asyncio.gather(*map(embedder.aembed_query, texts))
    assert (np.array(vectors) == [faults.vector_of(text, WIDTH) for text in texts]).all()
    assert sorted(seen.texts for seen in server.requests[-3:]) == [texts[:6], texts[6:12], texts[12:]]


def test_text_that_crashes_the_host_takes_no_retries_from_other_parts_of_a_batch(together, held, faults):
    refused = too_long(faults, 60)
    failures = iter([faults.response("", 429, Retry_After="0")])

    def answer(seen):
        if any("bad" in text for text in seen.texts):
            return faults.response("", 500)
        return refused(seen) or (next(failures, None) if "query 11" in seen.texts else None)

    server = held(answer)
    embedder = server.embedder(max_retries=2)
    embedder.embed([f"other {number:02}" for number in range(12)])  # which shows the host's limit
    texts = ["bad text", *(f"query {number:02}" for number in range(12))]
    with fake_clock():
        _, *results = together(server, [(embedder, text) for text in ["first", *texts]])
    assert type(results[0]) is ServerError
    assert all(server.right(vector, text) for vector, text in zip(results[1:], texts[1:], strict=True))
    assert next(failures, None) is None


def test_wrong_key_takes_one_request_and_each_call_gets_its_own_error(together, held, faults):
    server = held(lambda seen: None if seen.texts == ["first"] else faults.response("", 401))
    embedder = server.embedder()
    _, *errors = together(server, [(embedder, text) for text in ["first", "a", "b", "c"]])
    assert [type(error) for error in errors] == [AuthenticationError] * 3
    assert len(set(map(id, errors))) == 3
    assert [error.failed_positions for error in errors] == [(0,)] * 3
    assert len(server.sent) == 1


def test_key_that_the_service_repeats_is_in_no_frame_of_an_error_of_a_shared_request(together, held, faults):
    key = "sk-nano-in-no-frame"
    body = {"error": {"message": f"Incorrect key {key}"}}
    server = held(lambda seen: None if seen.texts == ["first"] else faults.response(body, 401))
    embedder = server.embedder(api_key=key)
    _, *errors = together(server, [(embedder, text) for text in ["first", "a", "b", "c"]])
    for error in errors:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        assert "Incorrect key" in shown
        assert key not in shown


def test_transient_error_of_a_gathered_batch_is_retried(together, held, faults):
    failures = iter([faults.response("", 503, Retry_After="0")])
    server = held(lambda seen: None if seen.texts == ["first"] else next(failures, None))
    embedder = server.embedder(max_retries=2)
    texts = ["first", "a", "b"]
    results = together(server, [(embedder, text) for text in texts])
    assert all(server.right(vector, text) for vector, text in zip(results, texts, strict=True))
    assert embedder.usage.retries == 1
    assert len(server.sent) == 2


def test_call_that_joins_a_text_after_its_failure_is_sent_by_itself(gathering, held, faults):
    late = []

    def answer(seen):
        if seen.texts == ["b"]:  # the failure of "a" is known, and its call still waits for it
            late.append(pool.submit(embedder.embed_query, "a"))
            queue = server.queue_of(embedder)
            until = time.monotonic() + GUARD_SECONDS
            while len(queue._under_way["a"].calls) < 2 and time.monotonic() < until:
                time.sleep(0)
        elif not late:
            return faults.response("", 500)
        return None

    server = held(answer)
    embedder = server.embedder(max_retries=0)
    with ThreadPoolExecutor(1) as pool:
        _, a, b = gathering.in_threads(server, [(embedder, text) for text in ("first", "a", "b")], None)
        assert isinstance(a, ServerError)
        assert server.right(b, "b")
        assert server.right(late[0].result(GUARD_SECONDS), "a")
    assert server.sent == [["a", "b"], ["a"], ["b"], ["a"]]


# --- deadlines, budgets, usage, progress ---


def test_deadline_of_one_call_in_flight_does_not_end_the_others(held, monkeypatch):
    monkeypatch.setattr(small_call, "SLOT_SECONDS", 0.01)  # waiting calls look at their deadline
    server, second = held(), threading.Event()
    server.others = lambda seen: None if seen.texts == ["first"] else (second.wait(GUARD_SECONDS) and None)
    patient, hasty = server.embedder(), server.embedder(deadline=1000)
    with fake_clock() as skipped, ThreadPoolExecutor(3) as executor:
        first = executor.submit(patient.embed_query, "first")
        server.server.wait_for(lambda: server.server.in_flight == 1)
        late, other = executor.submit(hasty.embed_query, "b"), executor.submit(patient.embed_query, "a")
        server.wait_for_queue(patient, 2)
        server.released.set()
        server.server.wait_for(lambda: len(server.sent) == 1)
        skipped.advance(1000)
        with pytest.raises(RequestTimeoutError, match="deadline"):
            late.result(GUARD_SECONDS)
        second.set()
        assert server.right(other.result(GUARD_SECONDS), "a")
        assert server.right(first.result(GUARD_SECONDS), "first")
    assert len(server.sent) == 1


def test_late_call_leaves_the_queue_with_a_timeout_and_its_text_is_not_sent(held, way):
    server = held()
    patient, hasty = server.embedder(), server.embedder(deadline=0.02)
    assert server.queue_of(patient) is server.queue_of(hasty)
    with ThreadPoolExecutor(2) as executor:
        first = executor.submit(patient.embed_query, "first")
        server.server.wait_for(lambda: server.server.in_flight == 1)
        other = executor.submit(patient.embed_query, "a")
        server.wait_for_queue(patient, 1)
        with pytest.raises(RequestTimeoutError, match="deadline"):
            way.query(hasty, "b")
        assert server.queue_of(patient).queued_texts == 1
        server.released.set()
        assert server.right(first.result(GUARD_SECONDS), "first")
        assert server.right(other.result(GUARD_SECONDS), "a")
    assert server.sent == [["a"]]


def test_budget_refuses_only_the_call_that_would_exceed_it(together, held):
    server = held()
    text = "five words are in here"
    price = server.embedder().estimate([text]).cost_usd
    rich, poor = server.embedder(), server.embedder(budget_usd=1.5 * price)
    calls = [(rich, "first"), (rich, "a"), (poor, text), (poor, f"some {text[5:]}"), (rich, "b")]
    _, one, *both, two = together(server, calls, queued=4)
    assert server.right(one, "a")
    assert server.right(two, "b")
    refused = [result for result in both if isinstance(result, BudgetExceededError)]
    assert len(refused) == 1
    assert len(server.sent) == 1
    assert len(server.sent[0]) == 3


def test_retry_of_a_shared_request_reserves_only_its_own_price_of_each_call(together, held, faults):
    refusals = iter([faults.response(status=429, retry_after="0")])
    server = held(lambda seen: None if seen.texts == ["first"] else next(refusals, None))
    texts = [f"five words are in here {number}" for number in range(3)]
    price = server.embedder().estimate(texts[:1]).cost_usd
    calls = [(server.embedder(budget_usd=1.5 * price, max_retries=1), text) for text in ["first", *texts]]
    _, *results = together(server, calls, queued=3)
    assert all(server.right(result, text) for result, text in zip(results, texts, strict=True))
    assert [sorted(sent) for sent in server.sent] == [texts, texts]


def test_usage_of_objects_that_share_requests_adds_up_to_the_services_count(together, held, faults):
    server = held(lambda seen: faults.response(faults.document(seen.texts, "base64", WIDTH, tokens=1001)))
    embedders = [server.embedder(), server.embedder(deadline=60), server.embedder(max_concurrency=1)]
    calls = [(embedders[0], "first"), *((embedders[n % 3], f"query {'x' * n}") for n in range(10))]
    together(server, calls)
    usages = [embedder.usage for embedder in embedders]
    total = usages[0] + usages[1] + usages[2]
    assert (total.requests, total.texts_sent, total.prompt_tokens) == (2, 11, 2002)
    assert total.cost_usd == pytest.approx(2002 * 0.02 / 1e6)
    assert all(usage.prompt_tokens for usage in usages)


def test_costs_in_replies_are_divided_among_the_calls(together, held, faults):
    def priced(seen):
        pricing = {"amount": 0.5, "currency": "USD"}
        return faults.response({**faults.document(seen.texts, "base64", WIDTH), "x_nanogpt_pricing": pricing})

    server = held(priced)
    embedders = [server.embedder(), server.embedder(deadline=60)]
    together(server, [(embedders[0], "first"), *((embedders[n % 2], f"query {n}") for n in range(6))])
    costs = [embedder.usage.cost_usd for embedder in embedders]
    assert costs == [pytest.approx(0.75), pytest.approx(0.25)]


def test_unknown_usage_stays_unknown(together, held, faults):
    def silent(seen):
        return faults.response({**faults.document(seen.texts, "base64", WIDTH), "usage": None})

    server = held(silent)
    embedder = server.embedder()
    together(server, [(embedder, text) for text in ("first", "a", "b")])
    assert embedder.usage.prompt_tokens is None


def test_progress_and_cache_are_those_of_each_call(together, held, tmp_path):
    seen = []
    server = held()
    one = server.embedder(progress=lambda done, total: seen.append((done, total)), cache=tmp_path / "one.sqlite")
    two = server.embedder()
    calls = [(two, "first"), (one, ["a", "b"]), (two, ["c", "d", "e"])]
    together(server, calls, queued=5)
    assert seen == [(2, 2)]
    assert len(server.sent) == 1
    assert one.embed(["a", "b"]).shape == (2, WIDTH)
    assert (len(server.sent), one.usage.texts_cached) == (1, 2)


def test_vectors_that_a_failed_call_has_shared_count_once(held, faults):
    def answer(seen):
        if len(seen.texts) > 1:
            return faults.response({"error": {"message": "too large"}}, 413)
        return None if seen.texts == ["first"] else faults.response({"error": {"message": "no"}}, 400)

    server, seen = held(answer), []
    mine = server.embedder(progress=lambda done, total: seen.append((done, total)))
    other = server.embedder()
    with ThreadPoolExecutor(2) as executor:
        failed = executor.submit(mine.embed, ["first", "bad"])
        server.server.wait_for(lambda: server.server.in_flight == 1)
        shared = executor.submit(other.embed_query, "first")
        until = time.monotonic() + GUARD_SECONDS
        while len(server.queue_of(mine)._under_way["first"].calls) < 2:
            assert time.monotonic() < until, "the second call did not begin"
            time.sleep(0)
        server.released.set()
        assert server.right(shared.result(GUARD_SECONDS), "first")
        with pytest.raises(BadRequestError) as caught:
            failed.result(GUARD_SECONDS)
    assert list(caught.value.completed) == [0]
    assert seen == [(1, 2)]


def raise_cancelled(*_):
    raise asyncio.CancelledError


@pytest.mark.parametrize("callback", ["on_request", "progress"])
def test_exception_of_a_callback_ends_only_its_own_call(together, held, callback):
    server, cache = held(), MemoryCache()
    bad, good = server.embedder(cache=cache, **{callback: raise_cancelled}), server.embedder()
    others = ["a", "first", "b"]  # one of them with the text of a call that ends
    results = together(server, [(bad, ["first"]), (bad, ["x"]), *((good, [text]) for text in others)], queued=3)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[:2])
    assert all(server.right(vectors[0], text) for vectors, text in zip(results[2:], others, strict=True))
    assert [sorted(texts) for texts in server.sent] == [["a", "b", "x"]]
    assert len(cache) == 3  # both vectors were paid for; the third entry gives the dimensions


@pytest.mark.parametrize("reason", ["refused", "late"])
def test_vectors_that_came_before_a_call_failed_are_completed_and_cached(held, faults, reason, monkeypatch):
    monkeypatch.setattr(small_call, "SLOT_SECONDS", 0.01)  # waiting calls look at their deadline
    second, cache = threading.Event(), MemoryCache()

    def answer(seen):
        if "x" not in seen.texts:
            return None
        assert second.wait(GUARD_SECONDS)
        return faults.response({"error": {"message": "no"}}, 400)

    server = held(answer)
    other, mine = server.embedder(batch_size=2), server.embedder(batch_size=2, deadline=1000, cache=cache)
    with fake_clock() as skipped, ThreadPoolExecutor(3) as executor:
        executor.submit(other.embed, ["first"])
        server.server.wait_for(lambda: server.server.in_flight == 1)
        executor.submit(other.embed, ["a"])
        server.wait_for_queue(other, 1)
        failed = executor.submit(mine.embed, ["b", "x"])  # the first batch has room for one of them
        server.wait_for_queue(other, 3)
        server.released.set()
        server.server.wait_for(lambda: len(server.sent) == 2)
        if reason == "refused":
            second.set()
        else:
            skipped.advance(1000)
        with pytest.raises(BadRequestError if reason == "refused" else RequestTimeoutError) as caught:
            failed.result(GUARD_SECONDS)
        second.set()
    assert server.sent == [["a", "b"], ["x"]]
    assert list(caught.value.completed) == [0]
    assert server.right(caught.value.completed[0], "b")
    assert len(cache) == 2  # the vector, and the dimensions


# --- all at once ---


def test_any_mix_of_calls_in_threads_and_tasks_gives_each_its_own_vectors_or_error(serve, faults):
    """Random calls at the same time, over real connections. test_gathering_model.py has every interleaving."""

    refuse = refuses(faults, "bad")
    embedder = serve(lambda seen: refuse(seen) or faults.good(seen)).embedder(
        MODEL, dimensions=WIDTH, max_concurrency=2, requests_per_second=10_000, max_retries=0
    )
    texts = st.lists(st.sampled_from(["a", "b", "c", "d", "bad 1", "bad 2"]), min_size=1, max_size=3)
    calls = st.lists(st.tuples(texts, st.sampled_from(["thread", "task", "cancelled task"])), min_size=2, max_size=12)

    def check(texts, vectors):
        if any(text.startswith("bad") for text in texts):
            assert isinstance(vectors, (BadRequestError, asyncio.CancelledError))
        elif not isinstance(vectors, asyncio.CancelledError):
            assert all(map(np.array_equal, vectors, (faults.vector_of(text, WIDTH) for text in texts))), vectors

    def embed(texts):
        try:
            return embedder.embed(texts)
        except NanoGPTError as error:
            return error

    async def run(calls):
        running, cancelled = [], []
        with ThreadPoolExecutor(12) as executor:
            for texts, way in calls:
                if way == "thread":
                    running.append(asyncio.get_running_loop().run_in_executor(executor, embed, texts))
                else:
                    running.append(asyncio.ensure_future(embedder.aembed(texts)))
                    cancelled += [running[-1]] if way == "cancelled task" else []
            await running[0]
            for task in cancelled:
                task.cancel()
            return await asyncio.wait_for(asyncio.gather(*running, return_exceptions=True), GUARD_SECONDS)

    @settings(max_examples=15, deadline=None)
    @given(calls=calls)
    def try_mix(calls):
        # The first call decides when others are cancelled, and has a right answer.
        calls = [(["a"], "thread"), *calls]
        for (texts, way), vectors in zip(calls, asyncio.run(run(calls)), strict=True):
            assert way == "cancelled task" or not isinstance(vectors, asyncio.CancelledError)
            check(texts, vectors)

    try_mix()


# --- cancellation and interrupts ---


async def test_cancelled_call_does_not_disturb_the_others_of_its_batch(held):
    server = held()
    embedder = server.embedder()
    second = threading.Event()
    server.others = lambda seen: None if seen.texts == ["first"] else (second.wait(GUARD_SECONDS) and None)
    first = asyncio.ensure_future(embedder.aembed_query("first"))
    await asyncio.to_thread(server.server.wait_for, lambda: server.server.in_flight == 1)
    calls = [asyncio.ensure_future(embedder.aembed_query(text)) for text in ("a", "b", "c", "d")]
    await server.await_queue(embedder, 4)
    calls[1].cancel()  # in the queue
    await server.await_queue(embedder, 3)
    server.released.set()
    await asyncio.to_thread(server.server.wait_for, lambda: len(server.sent) == 1)
    calls[0].cancel()  # in flight; the first of its batch
    second.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
    assert server.right(results[2], "c")
    assert server.right(results[3], "d")
    assert server.right(await first, "first")
    assert server.sent == [["a", "c", "d"]]


async def test_call_with_the_text_of_a_cancelled_call_sends_it_again(held):
    server = held()
    embedder = server.embedder()
    first = asyncio.ensure_future(embedder.aembed_query("first"))
    await asyncio.to_thread(server.server.wait_for, lambda: server.server.in_flight == 1)
    same = asyncio.ensure_future(embedder.aembed_query("first"))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    server.released.set()
    assert server.right(await same, "first")


async def test_bad_text_of_a_cancelled_call_fails_no_other_call(held, faults):
    second = threading.Event()

    def answer(seen):
        if "bad" in seen.texts:
            assert second.wait(GUARD_SECONDS)
            return faults.response({"error": {"message": "bad text"}}, 400)
        return None

    server = held(answer)
    embedder = server.embedder()
    first = asyncio.ensure_future(embedder.aembed_query("first"))
    await asyncio.to_thread(server.server.wait_for, lambda: server.server.in_flight == 1)
    calls = [asyncio.ensure_future(embedder.aembed([text])) for text in ("a", "bad")]
    await server.await_queue(embedder, 2)
    server.released.set()
    await first
    await asyncio.to_thread(server.server.wait_for, lambda: len(server.sent) == 1)
    calls[1].cancel()
    await asyncio.wait(calls[1:], timeout=GUARD_SECONDS)
    second.set()
    assert server.right((await calls[0])[0], "a")
    assert server.sent == [["a", "bad"], ["a"]]


async def test_call_that_joins_a_good_text_beside_a_bad_one_is_answered(held, faults):
    joined = threading.Event()

    def answer(seen):
        if seen.texts == ["bad", "good"]:  # the last texts under suspicion, of one call
            assert joined.wait(GUARD_SECONDS)
        return faults.response({"error": {"message": "bad text"}}, 400) if "bad" in seen.texts else None

    server = held(answer)
    embedder = server.embedder()
    first = asyncio.ensure_future(embedder.aembed_query("first"))
    await asyncio.to_thread(server.server.wait_for, lambda: server.server.in_flight == 1)
    calls = [asyncio.ensure_future(embedder.aembed(texts)) for texts in (["a"], ["bad", "good"])]
    await server.await_queue(embedder, 3)
    server.released.set()
    await first
    await asyncio.to_thread(server.server.wait_for, lambda: ["bad", "good"] in server.sent)
    joining = asyncio.ensure_future(embedder.aembed_query("good"))
    await asyncio.sleep(0)
    joined.set()
    assert server.right(await joining, "good")
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert server.right(results[0][0], "a")
    assert isinstance(results[1], BadRequestError)


async def test_batch_is_stopped_when_all_its_calls_are_cancelled(held):
    server = held()
    embedder = server.embedder()
    forever = threading.Event()
    server.others = lambda seen: None if "a" not in seen.texts else (forever.wait(GUARD_SECONDS) and None)
    first = asyncio.ensure_future(embedder.aembed_query("first"))
    await asyncio.to_thread(server.server.wait_for, lambda: server.server.in_flight == 1)
    calls = [asyncio.ensure_future(embedder.aembed_query(text)) for text in ("a", "b")]
    await server.await_queue(embedder, 2)
    server.released.set()
    await first
    await asyncio.to_thread(server.server.wait_for, lambda: len(server.sent) == 1)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    # Its slot is free, though its request has not been answered.
    assert server.right(await asyncio.wait_for(embedder.aembed_query("c"), GUARD_SECONDS / 2), "c")
    forever.set()


async def test_calls_go_by_themselves_if_the_task_that_carries_them_is_cancelled(held):
    forever = threading.Event()
    server = held(lambda seen: None if len(seen.texts) == 1 else (forever.wait(GUARD_SECONDS) and None))
    embedder = server.embedder()
    first = asyncio.ensure_future(embedder.aembed_query("first"))
    await asyncio.to_thread(server.server.wait_for, lambda: server.server.in_flight == 1)
    mine = asyncio.all_tasks()
    texts = ["a", "b", "c"]
    calls = [asyncio.ensure_future(embedder.aembed_query(text)) for text in texts]
    await server.await_queue(embedder, 3)
    server.released.set()
    await first  # its end starts the carrier
    await asyncio.to_thread(server.server.wait_for, lambda: len(server.sent) == 1)
    for carrier in asyncio.all_tasks() - mine - set(calls):
        carrier.cancel()
    results = await asyncio.gather(*calls)
    forever.set()
    assert all(server.right(vector, text) for vector, text in zip(results, texts, strict=True))
    assert server.sent[0] == texts
    assert sorted(server.sent[1:]) == [["a"], ["b"], ["c"]]


def test_calls_go_by_themselves_if_no_thread_can_start(held, gathering, monkeypatch):
    start, refused = threading.Thread.start, []

    def refuse(thread):
        if thread.name.startswith("nanogpt-gathered"):
            refused.append(thread)
            raise RuntimeError("can't start new thread")
        start(thread)

    server = held()
    embedder = server.embedder()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    texts = ["first", "a", "b", "c"]
    results = gathering.in_threads(server, [(embedder, text) for text in texts], None)
    assert all(server.right(vector, text) for vector, text in zip(results, texts, strict=True))
    assert refused


class _Interrupted(Exception):  # noqa: N818
    pass


def raising_at_line(number):
    """Return a function for ``sys.settrace``, and a list.

    The function raises before the gatherer runs its ``number``-th line of code, and appends that line to the list.
    """
    seen, reached = itertools.count(1), []

    def in_frame(frame, event, _):
        if event == "line" and not reached and next(seen) >= number:
            line = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
            # Python runs signal handlers at neither of these. A lock that was not released would stay so.
            if not line.startswith(("with ", "try:")):
                reached.append(line)
                raise _Interrupted
        return in_frame

    def trace(frame, _event, _argument):
        name = Path(frame.f_code.co_filename).name
        return (
            in_frame
            if name in {"gatherer.py", "small_call.py", "waiting.py"} and frame.f_code.co_name != "queued_texts"
            else None
        )

    return trace, reached


@pytest.mark.parametrize("waits", [False, True])
def test_call_that_is_interrupted_in_the_gatherer_holds_up_no_later_call(held, monkeypatch, waits):
    server, interrupted = held(), set()
    for module in (small_call, gatherer):
        monkeypatch.setattr(module, "SLOT_SECONDS", 0.01)  # a slot that stays occupied
    server.embedder().embed_query("not traced")  # imports the SDK

    def release_when_queued(embedder):
        while not server.released.is_set() and not server.queue_of(embedder).queued_texts:
            time.sleep(0)
        server.released.set()

    for number in itertools.count(1):
        server.released.clear()
        embedder = server.embedder(user=str(number), deadline=GUARD_SECONDS)  # a gatherer of its own
        with ThreadPoolExecutor(4) as executor:
            calls = []
            if waits:
                calls.append(executor.submit(embedder.embed_query, "first"))
                server.server.wait_for(lambda: server.server.in_flight == 1)
                executor.submit(release_when_queued, embedder)
            trace, reached = raising_at_line(number)
            before = sys.gettrace()
            sys.settrace(trace)
            try:
                with contextlib.suppress(_Interrupted):
                    embedder.embed_query("text")
            finally:
                sys.settrace(before)
                server.released.set()
            calls += [executor.submit(embedder.embed_query, text) for text in ("text", "other")]
            assert all(len(call.result(GUARD_SECONDS)) == WIDTH for call in calls), reached
        if not reached:
            break
        interrupted.update(reached)
    assert len(interrupted) > 20


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="This system has no signals for a thread.")
@pytest.mark.parametrize("mine", ["first", "queued"])
def test_exception_of_a_signal_handler_ends_only_the_call_of_the_main_thread(held, mine):
    server, done = held(), threading.Event()
    embedder = server.embedder()
    main = threading.get_ident()
    others = ["a", "b", "c"] if mine == "first" else ["first", "a", "b"]

    def interrupt(*_):
        if not done.is_set():
            raise _Interrupted

    def call_and_interrupt(executor):
        if mine == "first":
            server.server.wait_for(lambda: server.server.in_flight == 1)
        calls = []
        for text in others:
            calls.append(executor.submit(embedder.embed_query, text))
            server.server.wait_for(lambda: server.server.in_flight == 1)
        server.wait_for_queue(embedder, 3)
        signal.pthread_kill(main, signal.SIGUSR1)
        while not done.wait(5):  # Python drops an exception that is raised in a callback of the garbage collector
            signal.pthread_kill(main, signal.SIGUSR1)
        return calls

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with ThreadPoolExecutor(4) as executor:
            starter = executor.submit(call_and_interrupt, executor)
            if mine == "queued":
                server.server.wait_for(lambda: server.server.in_flight == 1)
            with pytest.raises(_Interrupted):
                embedder.embed_query(mine)
            done.set()
            calls = starter.result(GUARD_SECONDS)
            server.released.set()
            for text, call in zip(others, calls, strict=True):
                assert server.right(call.result(GUARD_SECONDS), text)
    finally:
        done.set()
        server.released.set()
        signal.signal(signal.SIGUSR1, before)
    assert not any("queued" in texts for texts in server.sent)


# --- several event loops, forks, gevent ---


def test_calls_of_threads_and_of_two_event_loops_share_one_request(held):
    server = held()
    embedder = server.embedder()

    def in_loop(text):
        return asyncio.run(embedder.aembed_query(text))

    with ThreadPoolExecutor(4) as executor:
        first = executor.submit(embedder.embed_query, "first")
        server.server.wait_for(lambda: server.server.in_flight == 1)
        # A slot of an event loop is not that of the threads: both loops wait for one only if each holds a request.
        texts = ["a", "b", "c"]
        calls = [executor.submit(embedder.embed_query, "a")]
        server.wait_for_queue(embedder, 1)
        calls += [executor.submit(in_loop, "b"), executor.submit(in_loop, "c")]
        server.wait_for_queue(embedder, 3)
        server.released.set()
        assert server.right(first.result(GUARD_SECONDS), "first")
        for text, call in zip(texts, calls, strict=True):
            assert server.right(call.result(GUARD_SECONDS), text)
    assert [sorted(texts) for texts in server.sent] == [texts]


def test_event_loop_that_ends_does_not_disturb_calls_of_other_threads(held):
    server = held()
    embedder = server.embedder()

    async def give_up():
        call = asyncio.ensure_future(embedder.aembed_query("of the loop"))
        await server.await_queue(embedder, 2)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call

    with ThreadPoolExecutor(2) as executor:
        first = executor.submit(embedder.embed_query, "first")
        server.server.wait_for(lambda: server.server.in_flight == 1)
        call = executor.submit(embedder.embed_query, "a")
        server.wait_for_queue(embedder, 1)
        asyncio.run(give_up())
        server.released.set()
        assert server.right(first.result(GUARD_SECONDS), "first")
        assert server.right(call.result(GUARD_SECONDS), "a")
    assert server.sent == [["a"]]


def test_own_async_client_carries_the_calls_of_its_event_loop(held):
    from nanogpt_core.http.sdk import httpx

    server = held()
    sent = []

    async def main():
        async def note(request):
            sent.append(request)

        async with httpx.AsyncClient(event_hooks={"request": [note]}) as client:
            embedder = server.embedder(http_async_client=client)
            first = asyncio.ensure_future(embedder.aembed_query("first"))
            await asyncio.to_thread(server.server.wait_for, lambda: server.server.in_flight == 1)
            calls = [asyncio.ensure_future(embedder.aembed_query(text)) for text in "abc"]
            await server.await_queue(embedder, 3)
            server.released.set()
            return await asyncio.gather(first, *calls)

    results = asyncio.run(main())
    assert all(server.right(vector, text) for vector, text in zip(results, ["first", *"abc"], strict=True))
    assert len(sent) == 2


SCRIPT = """
import os, sys, threading, time, asyncio
{before}
from concurrent.futures import ThreadPoolExecutor
from nanogpt_core import Embedder

make = lambda **options: Embedder(
    api_key=os.environ["KEY"], base_url=os.environ["URL"], dimensions=8, max_concurrency=1, requests_per_second=1000,
    **options)
embedder = make()
queue = embedder._pipeline.gathering_dispatcher.gatherer()
expected = dict(zip("abcdefgh", make(coalesce=False).embed(list("abcdefgh"))))
def right(text):
    return bool((embedder.embed_query(text) == expected[text]).all())
{code}
"""

FORK = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads
held = threading.Event()
from nanogpt_core.embeddings.gathering.waiting import WaitingCall
# A slot is taken, so that calls queue.
taken = WaitingCall.__new__(WaitingCall)
taken.lane = None
queue._slots.occupy(taken)
with ThreadPoolExecutor(4) as executor:
    calls = [executor.submit(right, text) for text in "abc"]
    while queue.queued_texts != 3:
        time.sleep(0)
    child = os.fork()
    if child == 0:
        ok = queue.queued_texts == 0 and right("d") and asyncio.run(embedder.aembed_query("e")).shape == (8,)
        os._exit(0 if ok else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    queue._slots.free(taken)
    queue.check_slots()
    assert all(call.result(60) for call in calls)
sys.exit(status)
"""

GEVENT = """
import gevent
jobs = [gevent.spawn(right, text) for text in "abcdefgh" * 4]
gevent.joinall(jobs, timeout=60, raise_error=True)
assert all(job.value for job in jobs)
assert embedder.usage.requests < 32, embedder.usage
"""


@pytest.mark.xdist_group("processes")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
def test_child_that_is_forked_while_calls_are_gathered_starts_with_an_empty_queue(options, warm, tmp_path):
    environment = {"KEY": options["api_key"], "URL": options["base_url"]}
    status, _, err = warm.run(SCRIPT.format(before="", code=FORK), tmp_path, environment=environment, ends=True)
    assert status == 0, err[-2000:]


def test_greenlets_of_gevent_share_requests(options):
    pytest.importorskip("gevent")
    script = SCRIPT.format(before="from gevent import monkey; monkey.patch_all()", code=GEVENT)
    done = fresh_process.run(script, environment={"KEY": options["api_key"], "URL": options["base_url"]})
    assert done.returncode == 0, done.stderr[-2000:]
