"""A request that carries texts of several calls: each call has its own record, usage and hook."""

import contextvars
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nanogpt_core import Usage, track_usage
from nanogpt_core._runtime.clock import fake_clock
from nanogpt_core.embeddings.gathering import gatherer, small_call
from nanogpt_core.errors import NanoGPTError

GUARD_SECONDS = 60
MODEL = "text-embedding-3-small"
user = contextvars.ContextVar("user", default="nobody")


@pytest.fixture
def gather(serve, faults, monkeypatch):
    """``gather(calls, answer, **options)`` runs calls, each a list of texts, whose texts go in one request.

    It returns the server, the embedders, and the usage and the error of each call. A first request occupies the
    only slot until all of them are in the queue.
    """
    monkeypatch.setattr(gatherer, "SLOT_SECONDS", GUARD_SECONDS)
    monkeypatch.setattr(small_call, "SLOT_SECONDS", GUARD_SECONDS)

    def run(calls, answer=None, **options):
        released = threading.Event()

        def handle(seen):
            if seen.texts == ["first"]:
                assert released.wait(GUARD_SECONDS)
            return (answer and seen.texts != ["first"] and answer(seen)) or faults.good(seen)

        server = serve(handle)
        options = {"dimensions": 6, "max_concurrency": 1, "requests_per_second": 1000, **options}
        first = server.embedder(MODEL, **{**options, "on_request": None})
        embedders = [server.embedder(MODEL, **options) for _ in calls]

        def one(number):
            user.set(number)
            with track_usage() as usage:
                try:
                    embedders[number].embed(calls[number])
                except NanoGPTError as error:
                    return usage, error
            return usage, None

        with fake_clock(), ThreadPoolExecutor(len(calls) + 1) as pool:
            blocked = pool.submit(first.embed, ["first"])
            server.wait_for(lambda: server.in_flight == 1)
            running, queue = [], first._pipeline.gathering_dispatcher.gatherer()
            waiting = 0
            for number, texts in enumerate(calls):
                running.append(pool.submit(contextvars.copy_context().run, one, number))
                waiting += len(texts)
                until = time.monotonic() + GUARD_SECONDS
                while queue.queued_texts != waiting:
                    assert time.monotonic() < until, "the call did not queue"
                    time.sleep(0)
            released.set()
            blocked.result(GUARD_SECONDS)
            done = [future.result(GUARD_SECONDS) for future in running]
        return server, embedders, done

    return run


CALLS = [["a", "bb"], ["ccc"], ["dddd", "e", "f"]]


def test_each_call_has_its_share_of_one_request(gather):
    records = []
    server, embedders, done = gather(CALLS, on_request=lambda record: records.append((user.get(), record)))
    assert len(server.requests) == 2
    by_call = dict(records)
    assert sorted(by_call) == [0, 1, 2]
    assert [by_call[number].texts for number in range(3)] == [2, 1, 3]
    assert sorted(record.shared for record in by_call.values()) == [False, True, True]
    usages = [usage for usage, _ in done]
    assert usages == [embedder.usage for embedder in embedders]
    total = sum(usages, start=Usage())
    assert (total.requests, total.texts_sent) == (1, 6)
    assert total.prompt_tokens == sum(len(text) for texts in CALLS for text in texts)
    assert sum(record.prompt_tokens for record in by_call.values()) == total.prompt_tokens


def test_retry_of_a_shared_request_counts_once(gather, faults):
    answers = [faults.response({"error": "no"}, 503)]
    _, _, done = gather(CALLS, lambda _: answers.pop() if answers else None, max_retries=1)
    total = sum((usage for usage, _ in done), start=Usage())
    assert (total.requests, total.retries, total.uncertain) == (1, 1, 1)


def test_each_call_of_a_failed_request_has_a_record(gather, faults):
    records = []
    _, _, done = gather(
        CALLS,
        lambda _: faults.response({"error": "no"}, 401),
        on_request=lambda record: records.append((user.get(), record.error, record.texts, record.shared)),
    )
    assert all(error is not None for _, error in done)
    assert sorted(records) == [
        (0, "AuthenticationError", 2, False),
        (1, "AuthenticationError", 1, True),
        (2, "AuthenticationError", 3, True),
    ]


def test_bad_text_of_one_call_is_a_failed_record_of_that_call(gather, faults):
    records = []

    def answer(seen):
        return faults.response({"error": "no"}, 400) if "ccc" in seen.texts else None

    _, _, done = gather(CALLS, answer, on_request=lambda record: records.append((user.get(), record)))
    assert [error is None for _, error in done] == [True, False, True]
    answered = [(number, record.texts) for number, record in records if record.error is None]
    assert sum(texts for number, texts in answered if number == 0) == 2
    assert sum(texts for number, texts in answered if number == 2) == 3
    assert not [texts for number, texts in answered if number == 1]
    assert [usage.texts_sent for usage, _ in done] == [2, 0, 3]
