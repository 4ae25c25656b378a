"""Streams: order, bounded read-ahead, errors and closing."""

import asyncio
import itertools
import signal
import threading

import numpy as np
import pytest

from nanogpt_core import ModelInfo
from nanogpt_core.embeddings import stream as stream_module
from nanogpt_core.errors import BadRequestError, InvalidInputError, InvalidTypeError, NanoGPTError


async def listed(batches, most):
    found = []
    async for batch in batches:
        found.append(batch)
        if len(found) == most:
            break
    await batches.aclose()
    return found


@pytest.fixture(params=["sync", "async"])
def stream(request):
    """Return a function that reads at most ``most`` batches of a stream and closes it, sync and async."""

    def sync(embedder, texts, most=None, **more):
        batches = embedder.stream(texts, **more)
        found = list(itertools.islice(batches, most))
        batches.close()
        return found

    def by_tasks(embedder, texts, most=None, **more):
        return asyncio.run(listed(embedder.astream(texts, **more), most))

    return sync if request.param == "sync" else by_tasks


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_stream_gives_the_same_vectors_as_embed(stream, make, size, concurrency):
    texts = [f"text {number % 40}" for number in range(99)]
    embedder = make(max_concurrency=concurrency, requests_per_second=10_000)
    batches = stream(embedder, iter(texts), batch_size=size)
    assert [batch.start for batch in batches] == list(range(0, 99, size))
    assert [text for batch in batches for text in batch.texts] == texts
    vectors = np.concatenate([batch.vectors for batch in batches])
    assert vectors.dtype == np.float32
    assert (vectors == embedder.embed(texts)).all()


def test_stream_of_no_texts_gives_no_batch(stream, make, sandbox):
    assert stream(make(), iter([])) == []
    assert not sandbox.requests


def test_batches_are_in_order_if_the_first_is_the_slowest(stream, serve, faults):
    others = threading.Event()

    def answer(seen):
        if seen.texts == ["text 0"]:
            assert others.wait(60)
        elif seen.texts == ["text 3"]:
            others.set()
        return faults.good(seen)

    embedder = serve(answer).embedder(max_concurrency=4)
    batches = stream(embedder, (f"text {number}" for number in range(9)), batch_size=1)
    assert [batch.texts for batch in batches] == [[f"text {number}"] for number in range(9)]


@pytest.mark.parametrize("concurrency", [1, 3])
def test_stream_reads_ahead_only_for_requests_in_flight(stream, serve, concurrency):
    read = itertools.count()
    server = serve()
    embedder = server.embedder(max_concurrency=concurrency)
    batches = stream(embedder, (f"text {number}" for number in read), most=5, batch_size=10)
    assert [batch.start for batch in batches] == [0, 10, 20, 30, 40]
    assert next(read) <= (5 + concurrency) * 10
    assert server.most_in_flight <= concurrency


def test_closed_stream_sends_no_more_requests(stream, serve):
    server = serve()
    stream(server.embedder(max_concurrency=2), map(str, itertools.count()), most=3, batch_size=1)
    server.wait_for(lambda: server.in_flight == 0)
    assert len(server.requests) <= 5
    assert not [thread for thread in threading.enumerate() if thread.name == "nanogpt-stream"]


def test_input_error_names_the_position_in_the_whole_stream(stream, make):
    with pytest.raises(InvalidInputError) as caught:
        stream(make(), ["a"] * 25 + [" "] + ["b"] * 10, batch_size=10)
    assert caught.value.positions == (25,)


def test_batches_before_a_failure_are_returned(make):
    batches = make(max_concurrency=2).stream(["a", "b", "", "c"], batch_size=1)
    assert [next(batches).texts, next(batches).texts] == [["a"], ["b"]]
    with pytest.raises(InvalidInputError):
        next(batches)
    assert list(batches) == []


def test_failed_batch_names_its_positions(stream, serve, faults):
    def answer(seen):
        return faults.response({"error": {"message": "no"}}, 400) if "text 7" in seen.texts else faults.good(seen)

    with pytest.raises(NanoGPTError) as caught:
        stream(serve(answer).embedder(), [f"text {number}" for number in range(12)], batch_size=3)
    assert caught.value.failed_positions == (6, 7, 8)


def test_failed_batch_of_several_requests_does_not_end_the_retries_of_a_batch_before_it(stream, serve, faults):
    refused, attempts = threading.Event(), itertools.count()

    def answer(seen):
        if seen.texts == ["slow"] and next(attempts) == 0:
            assert refused.wait(60)
            return faults.response({"error": {"message": "later"}}, 503)
        if seen.texts == ["refused"]:
            refused.set()
            return faults.response({"error": {"message": "no"}}, 400)
        return faults.good(seen)

    # A request takes one of the texts, and a batch two.
    model = ModelInfo("lab/small", dimensions=faults.WIDTH, max_request_tokens=1)
    embedder = serve(answer).embedder(model, max_retries=1)
    with pytest.raises(BadRequestError) as caught:
        stream(embedder, ["slow", "a", "refused", "b"], batch_size=2)
    assert caught.value.failed_positions[0] == 2
    assert next(attempts) == 2


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="This system has no signals for a thread.")
def test_interrupted_stream_ends_the_retries_of_all_batches_in_progress(serve, faults):
    both, main, caught = threading.Barrier(2), threading.get_ident(), threading.Event()

    def answer(_):
        both.wait(60)  # then the stream waits for its first batch
        return faults.response({"error": {"message": "later"}}, 503, Retry_After="30")

    server = serve(answer)

    def interrupt(*_):
        if not caught.is_set():
            raise KeyboardInterrupt

    def press_ctrl_c():
        server.wait_for(lambda: len(server.requests) == 2)
        while not caught.wait(0.05):  # again, since an exception may be lost in a callback
            signal.pthread_kill(main, signal.SIGUSR1)

    def read():
        try:
            list(server.embedder(max_concurrency=2, max_retries=5).stream(["a", "b"], batch_size=1))
        finally:
            caught.set()

    before = signal.signal(signal.SIGUSR1, interrupt)
    user = threading.Thread(target=press_ctrl_c)
    user.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            read()
    finally:
        user.join()
        signal.signal(signal.SIGUSR1, before)
    for thread in threading.enumerate():
        if thread.name == "nanogpt-stream":
            thread.join(20)
            assert not thread.is_alive()


def test_exception_of_the_input_iterator_reaches_the_caller(stream, make):
    def texts():
        yield "a"
        raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="the caller's own"):
        stream(make(), texts(), batch_size=1)


def test_batches_sent_before_an_error_of_the_source_are_handed_out(way, serve, faults, monkeypatch):
    monkeypatch.setattr(stream_module, "_MAX_SECONDS_FOR_THE_FIRST", 0.0)
    failing, found = threading.Event(), []

    def source():
        yield from ["a", "b", "c"]
        failing.set()
        raise KeyError("the caller's own")

    def answer(seen):
        assert failing.wait(20)
        return faults.good(seen)

    def by_threads():
        found.extend(batch.texts for batch in embedder.stream(source(), batch_size=1))

    async def by_tasks():
        async for batch in embedder.astream(source(), batch_size=1):
            found.append(batch.texts)  # noqa: PERF401 - kept if the stream fails

    embedder = serve(answer).embedder(max_concurrency=8)
    with pytest.raises(KeyError, match="the caller's own"):
        by_threads() if way.name == "sync" else asyncio.run(by_tasks())
    assert found == [["a"], ["b"], ["c"]]


@pytest.mark.parametrize("texts", ["a string", b"bytes", None, 5])
def test_stream_input_that_is_not_an_iterable_of_texts_is_refused(stream, make, sandbox, texts):
    with pytest.raises(InvalidTypeError):
        stream(make(), texts)
    assert not sandbox.requests


def test_progress_counts_the_texts_of_a_list(stream, make):
    calls = []
    stream(make(progress=lambda *call: calls.append(call)), ["a", "b", "c"], batch_size=2)
    assert calls[-1] == (3, 3)


def test_astream_reads_an_async_iterator(make):
    async def texts():
        for number in range(5):
            await asyncio.sleep(0)
            yield f"text {number}"

    found = asyncio.run(listed(make().astream(texts(), batch_size=2), None))
    assert [batch.texts for batch in found] == [["text 0", "text 1"], ["text 2", "text 3"], ["text 4"]]


def test_second_stream_is_read_from_the_cache(stream, make, sandbox, tmp_path):
    texts = [f"text {number}" for number in range(30)]
    first = stream(make(cache=tmp_path / "c.db"), texts, batch_size=7)
    sandbox.clear()
    second = stream(make(cache=tmp_path / "c.db"), texts, batch_size=11)
    assert not sandbox.requests
    assert (np.concatenate([b.vectors for b in first]) == np.concatenate([b.vectors for b in second])).all()


ABANDONED = """
import itertools
from nanogpt_core import Embedder
batches = Embedder("lab/unlisted", api_key="k", max_concurrency=4).stream(map(str, itertools.count()), batch_size=2)
print(len(next(batches).texts), flush=True)
"""


@pytest.mark.xdist_group("processes")
def test_interpreter_exits_with_an_unfinished_stream(serve, warm, tmp_path):
    environment = {"NANOGPT_BASE_URL": serve().base_url}
    assert warm.run(ABANDONED, tmp_path, environment=environment, ends=True) == (0, "2\n", "")


@pytest.mark.parametrize("way", ["sync", "async"])
def test_first_batch_is_handed_out_before_a_slow_source_gives_more(make, way, monkeypatch):
    monkeypatch.setattr(stream_module, "_MAX_SECONDS_FOR_THE_FIRST", 60)
    received = threading.Event()

    def source():
        yield from ["one", "two"]
        assert received.wait(60)
        yield "three"

    async def slow_source():
        for text in ["one", "two"]:
            yield text
        assert await asyncio.to_thread(received.wait, 60)
        yield "three"

    async def main():
        texts = []
        async for batch in make().astream(slow_source(), batch_size=2):
            received.set()
            texts.append(batch.texts)
        return texts

    if way == "async":
        texts = asyncio.run(main())
    else:
        texts = []
        for batch in make().stream(source(), batch_size=2):
            received.set()
            texts.append(batch.texts)
    assert texts == [["one", "two"], ["three"]]


def test_each_batch_of_an_asynchronous_source_is_handed_out_before_the_next_is_read(make):
    async def main():
        received = asyncio.Semaphore(0)

        async def source():
            for number in range(5):
                yield f"text {number}"
                await received.acquire()

        texts = []
        async for batch in make().astream(source(), batch_size=1):
            texts.append(batch.texts)
            received.release()
        return texts

    assert asyncio.run(main()) == [[f"text {number}"] for number in range(5)]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_next_request_begins_while_the_consumer_is_busy_with_finished_batches(serve, faults, way, monkeypatch):
    monkeypatch.setattr(stream_module._Pace, "seconds_to_wait", 0.0)  # as for a source that is faster than a call
    others = threading.Semaphore(0)

    def answer(seen):
        if seen.texts == ["0"]:  # the first batch is the last of the first four to be finished
            assert all(others.acquire(timeout=60) for _ in range(3))
        return faults.good(seen)

    server, texts = serve(answer), list(map(str, range(9)))
    embedder = server.embedder(max_concurrency=4, on_request=lambda _: others.release())

    async def main():
        batches = embedder.astream(texts, batch_size=1)
        await anext(batches)
        await anext(batches)
        await asyncio.to_thread(server.wait_for, lambda: len(server.requests) >= 5)
        return 2 + len([batch async for batch in batches])

    if way == "async":
        assert asyncio.run(main()) == 9
    else:
        batches = embedder.stream(texts, batch_size=1)
        next(batches)
        next(batches)
        server.wait_for(lambda: len(server.requests) >= 5)
        assert 2 + len(list(batches)) == 9
    assert server.most_in_flight <= 4


def test_finished_result_is_handed_out_before_an_error_of_an_asynchronous_source():
    async def main():
        finished = asyncio.Event()

        async def source():
            yield "a"
            await finished.wait()
            raise KeyError("the caller's own")

        async def call(item):
            finished.set()
            return item

        results = stream_module.amap_ordered(source(), call, 4)
        assert await anext(results) == "a"
        with pytest.raises(KeyError, match="the caller's own"):
            await anext(results)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("read_seconds", "call_seconds", "expected"), [(2.0, None, 2.0), (2.0, 1.0, 2.0), (2.0, 2.0, 2.0), (1.0, 2.0, 0.0)]
)
def test_stream_waits_for_results_only_if_reading_is_slower_than_a_call(read_seconds, call_seconds, expected):
    pace = stream_module._Pace()
    pace._read_seconds, pace._call_seconds = read_seconds, call_seconds
    assert pace.seconds_to_wait == expected


def test_result_is_handed_out_before_the_next_item_blocks_the_event_loop(make, monkeypatch):
    monkeypatch.setattr(stream_module._Pace, "seconds_to_wait", 60.0)  # as for a source that is slower than a call

    async def main():
        received = []

        def source():
            for number in range(4):
                assert len(received) >= number - 1
                yield f"text {number}"

        async for batch in make().astream(source(), batch_size=1):
            received.append(batch.texts)  # noqa: PERF401 - the source looks at it
        return received

    assert asyncio.run(main()) == [[f"text {number}"] for number in range(4)]
