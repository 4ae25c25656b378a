"""Workers: a fixed number of threads or tasks, failures, and threads that cannot be started."""

import asyncio
import gc
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest

import fresh_process
from nanogpt_core import Embedder, NanoGPTError
from nanogpt_core._runtime.threads import run_within
from nanogpt_core._runtime.workers import run_in_tasks, run_in_threads
from nanogpt_core.embeddings.stream import map_ordered

WAYS = pytest.mark.parametrize("way", ["threads", "tasks"])


def run(way, tasks, max_workers, stop=None):
    """Run functions of no arguments in threads or tasks."""
    stop = stop or threading.Event()
    if way == "threads":
        run_in_threads(tasks, max_workers, stop)
        return

    def as_coroutine(task):
        async def run_task(_):
            await asyncio.sleep(0)
            task()

        return run_task

    asyncio.run(run_in_tasks([as_coroutine(task) for task in tasks], max_workers, stop))


@WAYS
@pytest.mark.parametrize(("count", "max_workers"), [(0, 4), (1, 4), (3, 1), (5, 2), (20, 16)])
def test_every_task_runs_once(way, count, max_workers):
    done = []
    run(way, [lambda i=i: done.append(i) for i in range(count)], max_workers)
    assert sorted(done) == list(range(count))


def test_at_most_max_workers_threads_run_at_once():
    running, most, lock, go_on = [], [], threading.Lock(), threading.Event()

    def task():
        with lock:
            running.append(1)
            most.append(len(running))
            if len(running) == 3:
                go_on.set()
        assert go_on.wait(60)
        with lock:
            running.pop()

    run_in_threads([task] * 12, 3, threading.Event())
    assert max(most) == 3


@WAYS
def test_first_failure_is_raised_and_stops_the_rest(way):
    stop, done = threading.Event(), []

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(way, [fail, *[lambda: done.append(1)] * 50], 1, stop)
    assert stop.is_set()
    assert not done


@pytest.mark.parametrize("max_workers", [1, 4])
def test_task_that_raises_system_exit_is_not_a_success(max_workers):
    def leave():
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        run_in_threads([leave, leave], max_workers, threading.Event())


def test_cancelling_the_call_cancels_its_tasks():
    async def main():
        started, cancelled = asyncio.Event(), []

        async def wait_for_ever(_):
            started.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(1)
                raise

        stop = threading.Event()
        call = asyncio.ensure_future(run_in_tasks([wait_for_ever] * 3, 3, stop))
        await started.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert len(cancelled) == 3
        assert stop.is_set()

    asyncio.run(main())


LIMITED = """
import os, resource, sys, threading
from nanogpt_core import Embedder
embedder = Embedder(api_key=os.environ["KEY"], base_url=os.environ["URL"], batch_size=1, dimensions=8)
expected = embedder.embed(["text 0"])                       # imports and connects while it still may
threading.stack_size(256 << 20)
pages = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + int(sys.argv[1]) * (256 << 20) + (64 << 20), -1))
vectors = embedder.embed([f"text {i}" for i in range(20)])
assert vectors.shape == (20, 8) and (vectors[0] == expected[0]).all() and vectors.any(axis=1).all()
batches = list(embedder.stream(f"text {i}" for i in range(20)))
assert [batch.start for batch in batches] == list(range(20))
assert all((batch.vectors[0] == vector).all() for batch, vector in zip(batches, vectors))
"""


@pytest.mark.xdist_group("warm processes")
@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux lets a test limit the threads of its own process.")
@pytest.mark.parametrize("threads", [0, 2])
def test_call_continues_with_fewer_threads_if_no_more_can_start(options, threads, warm, tmp_path):
    environment = {"KEY": options["api_key"], "URL": options["base_url"]}
    status, _, err = warm.run(LIMITED, tmp_path, "limited.py", str(threads), environment=environment)
    assert status == 0, err[-2000:]


def test_exception_of_a_signal_handler_passes_through_while_a_thread_starts(monkeypatch):
    def start(thread, start=threading.Thread.start):
        start(thread)
        raise RuntimeError("time limit of the task queue")

    monkeypatch.setattr(threading.Thread, "start", start)
    stop = threading.Event()
    with pytest.raises(RuntimeError, match="time limit"):
        run_in_threads([lambda: stop.wait(2)] * 3, 3, stop)
    with pytest.raises(RuntimeError, match="time limit"):
        list(map_ordered(iter("ab"), lambda item, _: item.upper(), 2))
    with pytest.raises(RuntimeError, match="time limit"):
        run_within(60, stop.set, "limited")


@pytest.fixture
def loop_without_threads(monkeypatch):
    """An event loop that can start no thread from its second call on."""
    loop = asyncio.new_event_loop()

    def start(thread, start=threading.Thread.start):
        if thread.name.startswith("refused"):
            raise RuntimeError("can't start new thread")
        start(thread)

    def run(call):
        with executors.pop(0) as executor:
            loop.set_default_executor(executor)
            return loop.run_until_complete(call)

    executors = [ThreadPoolExecutor(), ThreadPoolExecutor(thread_name_prefix="refused")]
    monkeypatch.setattr(threading.Thread, "start", start)
    yield run
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_async_call_goes_on_if_no_thread_can_start(options, loop_without_threads, tmp_path):
    embedder = Embedder(**options, dimensions=8, cache=tmp_path / "cache.db")
    loop_without_threads(embedder.aembed(["before"]))
    texts = [f"text {number}" for number in range(250)]
    assert (loop_without_threads(embedder.aembed(texts)) == embedder.embed(texts)).all()


def test_first_async_call_without_any_thread_is_a_typed_error(options, loop_without_threads):
    loop_without_threads(asyncio.sleep(0))
    embedder = Embedder(**options, max_retries=0)
    with pytest.raises(NanoGPTError, match="may not start another thread") as caught:
        loop_without_threads(embedder.aembed(["text"]))
    assert caught.value.transient


LATE = """
import asyncio, atexit, contextlib, os, sys, threading
from nanogpt_core import Embedder, NanoGPTError

async def first_async_call(options):
    try:
        await Embedder(**options).aembed(["one"])
    except NanoGPTError as error:
        print(type(error).__name__, error.transient, error)

def first_calls():
    options = {"api_key": os.environ["KEY"], "base_url": os.environ["URL"], "dimensions": 8}
    print(Embedder(batch_size=2, **options).embed(["one", "two", "three"]).shape)
    with contextlib.suppress(RuntimeError):  # of Python 3.12: asyncio.run() ends with a thread of its own
        asyncio.run(first_async_call(options))

def after_the_main_thread():
    threading.main_thread().join()
    first_calls()

if sys.argv[1] == "thread":
    threading.Thread(target=after_the_main_thread).start()
else:
    atexit.register(first_calls)
sys.exit()
"""


@pytest.mark.parametrize("place", ["thread", "atexit"])
def test_first_call_may_come_after_the_main_thread_has_ended(options, place):
    environment = {"KEY": options["api_key"], "URL": options["base_url"]}
    done = fresh_process.run(LATE, place, environment=environment)
    vectors, error = done.stdout.splitlines() or ["", done.stderr[-2000:]]
    assert vectors == "(3, 8)"
    # The SDK's first async call needs a thread.
    assert error.startswith("NanoGPTError False The program is ending")
    assert "main thread" in error


GREEN = """
import os, sys
library, when = sys.argv[1:]

def patch():
    if library == "gevent":
        from gevent import monkey
        monkey.patch_all()
    else:
        sys.modules["trio"] = None  # httpcore imports trio if it is there, and trio's import fails beside eventlet
        import eventlet
        eventlet.monkey_patch()

if when == "before":
    patch()
from nanogpt_core import Embedder
from langchain_core.embeddings import Embeddings
if when == "after":
    patch()
options = {"api_key": os.environ["KEY"], "base_url": os.environ["URL"], "dimensions": 8}
embedder = Embedder(batch_size=2, **options)
texts = [f"text {i}" for i in range(8)]
expected = Embedder(max_concurrency=1, **options).embed(texts)
for _ in range(5):
    assert (embedder.embed(texts) == expected).all()
    assert embedder.embed_lists(texts) == expected.tolist()
streamed = [row.tolist() for batch in embedder.stream(texts) for row in batch.vectors]
assert streamed == expected.tolist()
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("library", ["gevent", "eventlet"])
def test_green_threads_give_the_right_vectors(options, library, when):
    # Imported here, eventlet would warn of each fork in later tests.
    if find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    environment = {"KEY": options["api_key"], "URL": options["base_url"]}
    done = fresh_process.run(GREEN, library, when, environment=environment, options=["-Wignore"])
    assert done.returncode == 0, done.stderr[-2000:]


def test_embedder_is_freed_without_the_garbage_collector(make):
    gc.disable()
    try:
        embedder = make(dimensions=8, batch_size=1)
        embedder.embed(["one", "two"])
        asyncio.run(embedder.aembed(["one", "two"]))
        alive = weakref.ref(embedder)
        pipeline = weakref.ref(embedder._pipeline)
        del embedder
        assert alive() is None
        assert pipeline() is None
    finally:
        gc.enable()
