"""One sample, in a process of its own: the argument is the task in JSON; a line of JSON on stdout is the result."""

from __future__ import annotations

import asyncio
import cProfile
import gc
import http.client
import inspect
import json
import mmap
import os
import pstats
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.speed import environment, services, stores, vectors
from benchmarks.speed.clients import CLIENTS, QUERIES, embedder
from benchmarks.speed.setup import Client, Setup

_WARM_UP = 4096
# So long after the warm-up, a rate limiter no longer counts its requests. Ours counts those of two seconds, and spaces
# further ones evenly if there were more than a second's.
_PAUSE_SECONDS = 2.2
_LONGEST_SHOWN = 14
_ROOTS = ("site-packages", f"python3.{sys.version_info.minor}", environment.ROOT.name)
_AT_HAND = 3 << 29  # bytes: more than 20,000 lists take


def main() -> None:
    """Do the task that the argument describes."""
    task = json.loads(sys.argv[1])
    if task.get("core") is not None:
        os.sched_setaffinity(0, {task["core"]})
    setup = Setup(task.get("port", 0), task.get("authority", ""), task.get("cache", ""))
    print(json.dumps(TASKS[task["task"]](setup, **task.get("options", {}))))


def throughput(setup: Setup, client: str, texts: int, warm_up: int = _WARM_UP) -> dict[str, float]:
    """Embed so many texts once, after a warm-up."""
    chosen = CLIENTS[client]
    everything = vectors.texts(texts)
    warm = vectors.texts(warm_up, seed=1)
    if chosen.is_async:
        return asyncio.run(_throughput_async(chosen, setup, everything, warm))
    run = chosen.make(setup)
    check(chosen, run(warm), len(warm))
    if setup.cache:
        counted(setup)
    time.sleep(_PAUSE_SECONDS)
    make_ready()
    cpu, start = time.process_time(), time.perf_counter()
    answer = run(everything)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    check(chosen, answer, texts)
    if setup.cache:
        return {"seconds": seconds, "cpu": cpu, "requests": counted(setup)["requests"]}
    return {"seconds": seconds, "cpu": cpu}


def profile(setup: Setup, client: str, texts: int, warm_up: int = _WARM_UP) -> dict[str, Any]:
    """Embed so many texts once, after a warm-up, under the profiler; give the slowest functions, in seconds."""
    chosen = CLIENTS[client]
    run = chosen.make(setup)
    everything = vectors.texts(texts)
    run(everything if setup.cache else vectors.texts(warm_up, seed=1))
    make_ready()
    profiler = cProfile.Profile()
    before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    profiler.enable()
    run(everything)
    profiler.disable()
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
    spent = [(own, calls, _named(place)) for place, (_, calls, own, *_) in pstats.Stats(profiler).stats.items()]  # type: ignore[attr-defined]
    return {
        "seconds": seconds,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "faults": after.ru_minflt - before.ru_minflt,
        "functions": sorted(spent, reverse=True)[:_LONGEST_SHOWN],
    }


def _named(place: tuple[str, int, str]) -> str:
    path, _, function = place
    if path == "~":
        return function.strip("<>").partition(" at 0x")[0]
    parts = Path(path).with_suffix("").parts
    root = max((number for number, part in enumerate(parts) if part in _ROOTS), default=-1)
    return f"{'.'.join(parts[root + 1 :])}.{function}"


async def _throughput_async(chosen: Client, setup: Setup, everything: list[str], warm: list[str]) -> dict[str, float]:
    run = chosen.make(setup)
    check(chosen, await run(warm), len(warm))
    await asyncio.sleep(_PAUSE_SECONDS)
    loop = asyncio.get_running_loop()
    gaps: list[float] = []

    async def tick() -> None:
        last = loop.time()
        while True:
            await asyncio.sleep(0.002)
            now = loop.time()
            gaps.append(now - last)
            last = now

    # Two ticks first, so that the loop has nothing else to do when the call begins.
    ticking = asyncio.ensure_future(tick())
    await asyncio.sleep(0.02)
    make_ready()
    await asyncio.sleep(0.01)
    gaps.clear()
    cpu, start = time.process_time(), time.perf_counter()
    answer = await run(everything)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    await asyncio.sleep(0.01)  # a tick more, for callbacks that are left at the end
    ticking.cancel()
    check(chosen, answer, len(everything))
    return {"seconds": seconds, "cpu": cpu, "longest_gap": max(gaps)}


def make_ready() -> None:
    """Before the clock runs, collect the garbage of the imports, and have memory at hand.

    A virtual machine gives memory that was idle for some seconds back to its host, and gets it again page by page at
    the first touch. That takes ten times as long as the touch itself, differs from minute to minute, and says nothing
    about the client.
    """
    gc.collect()
    with mmap.mmap(-1, _AT_HAND) as memory:
        if hasattr(mmap, "MADV_HUGEPAGE"):
            memory.madvise(mmap.MADV_HUGEPAGE)  # large blocks, of which small ones can be made
        for page in range(0, _AT_HAND, mmap.PAGESIZE):
            memory[page] = 1


def check(chosen: Client, answer: Any, count: int) -> None:
    """Check the answer of a client to ``count`` texts."""
    if chosen.form == "nothing":
        return
    if chosen.label.startswith("LlamaIndex around"):
        assert len(answer) == count
        return
    vectors.check(answer, count)


def queries(setup: Setup, client: str, warm_up: int = 50, count: int = 200) -> dict[str, float]:
    """Embed single queries, in turns with the SDK in the same process.

    Give the median's seconds, the mean CPU time of one, and the ratio of the medians to the SDK. Between two processes
    that run one after another, that ratio differs by a quarter for the same client.
    """
    chosen = QUERIES[client]
    sdk = QUERIES["sdk-async" if chosen.is_async else "sdk"]

    async def in_loop() -> list[list[tuple[float, float]]]:
        runs = [chosen.make(setup), sdk.make(setup)]
        await _in_turns(runs, warm_up)
        make_ready()
        return await _in_turns(runs, count)

    mine, theirs = asyncio.run(in_loop())
    seconds, seconds_of_sdk = (statistics.median(seconds for seconds, _ in one) for one in (mine, theirs))
    cpu = statistics.mean(cpu for _, cpu in mine)
    return {"seconds": seconds, "cpu": cpu, "against_sdk": seconds / seconds_of_sdk}


async def _in_turns(runs: list[Callable[[Any], Any]], count: int) -> list[list[tuple[float, float]]]:
    """Embed each query with each client; return the seconds and the CPU time of each, for each client."""
    expected = vectors.vectors()[0]
    taken: list[list[tuple[float, float]]] = [[] for _ in runs]
    for number, text in enumerate(vectors.texts(count, words=20, seed=count)):
        turns = list(zip(runs, taken, strict=True))
        for run, samples in turns if number % 2 else reversed(turns):
            cpu, start = time.process_time(), time.perf_counter()
            answer = run(text)
            if inspect.isawaitable(answer):
                answer = await answer
            samples.append((time.perf_counter() - start, time.process_time() - cpu))
            assert [float(number) for number in answer[:3]] == expected[:3].tolist()
            assert len(answer) == vectors.WIDTH
    return taken


def stream(setup: Setup, client: str, texts: int) -> dict[str, float]:
    """Stream so many short texts; give memory over the start in MiB, and how flat it was."""
    assert client == "embed"
    made = embedder(setup)
    made.embed(vectors.texts(512))
    before = _memory()
    seen, peak, early = 0, 0.0, 0.0
    start = time.perf_counter()
    for batch in made.stream(vectors.short_texts(texts)):
        assert batch.start == seen
        assert batch.vectors.shape == (len(batch.texts), vectors.WIDTH)
        seen += len(batch.texts)
        peak = max(peak, _memory() - before)
        if seen <= texts // 4:
            early = peak
    seconds = time.perf_counter() - start
    assert seen == texts
    return {
        "seconds": seconds,
        "texts": texts,
        "peak": peak,
        "peak_in_first_quarter": early,
        "high_water": _high_water() - before,
    }


def _memory() -> float:
    return _status("VmRSS")


def _high_water() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    with open("/proc/self/status") as status:  # noqa: PTH123 - read a thousand times a second
        return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1024


def rate(setup: Setup, client: str, texts: int, rate: int) -> dict[str, float]:
    """Embed under the server's rate limit; give the used share of the grant, and the texts lost."""
    chosen = CLIENTS[client]
    everything = vectors.texts(texts, words=8)
    run = chosen.make(setup)
    # Imports of the first request do not count. A second later the server has forgotten the request.
    _called(chosen, run, vectors.texts(1, seed=1))
    counted(setup)
    time.sleep(1.05)
    start = time.perf_counter()
    try:
        answer = _called(chosen, run, everything)
        check(chosen, answer, texts)
        lost = 0
    except AssertionError:
        raise
    except Exception:  # noqa: BLE001 - a client that fails may raise any exception, and all its texts are lost
        lost = texts
    seconds = time.perf_counter() - start
    told = counted(setup)
    granted = int(told["requests"])
    return {"seconds": seconds, "share": granted / (rate * seconds), "lost": lost, "refused": told["refused"]}


def _called(chosen: Client, run: Callable[[list[str]], Any], texts: list[str]) -> Any:
    return asyncio.run(_awaited(run(texts))) if chosen.is_async else run(texts)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def counted(setup: Setup) -> dict[str, Any]:
    """Return the server's counts since the last call."""
    connection = http.client.HTTPConnection("127.0.0.1", setup.port)
    connection.request("GET", "/statistics")
    counts: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return counts


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "throughput": throughput,
    "profile": profile,
    "queries": queries,
    "stream": stream,
    "rate": rate,
    "under way": services.under_way,
    "arrivals": services.arrivals,
    "stores": stores.ingest,
}


if __name__ == "__main__":
    main()
