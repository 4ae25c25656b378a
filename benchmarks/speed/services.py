"""Queries as a web service makes them: many under way at once, or arriving at random under a granted rate."""

from __future__ import annotations

import asyncio
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.speed import clients, vectors
from benchmarks.speed.setup import KEY, AsyncRun, Client, Run, Setup

UNDER_WAY = (1, 8, 32, 256)
_SECONDS = 1.2  # for each number of queries under way
_NO_PACE = clients.NO_PACE


def _sdk_aiohttp(setup: Setup) -> AsyncRun:
    from openai import AsyncOpenAI, DefaultAioHttpClient

    create = AsyncOpenAI(api_key=KEY, base_url=setup.url, http_client=DefaultAioHttpClient()).embeddings.create

    async def run(text: Any) -> Any:
        return (await create(model=vectors.MODEL, input=text)).data[0].embedding

    return run


def _aembed_aiohttp(setup: Setup) -> AsyncRun:
    from openai import DefaultAioHttpClient

    client = DefaultAioHttpClient()
    run: AsyncRun = clients.embedder(setup, requests_per_second=_NO_PACE, http_async_client=client).aembed_query
    return run


def _aiohttp(setup: Setup) -> AsyncRun:
    import aiohttp
    import numpy as np
    from jiter import from_json
    from pybase64 import b64decode

    session: list[aiohttp.ClientSession] = []

    async def run(text: Any) -> Any:
        if not session:
            session.append(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        body = {"input": [text], "model": vectors.MODEL, "encoding_format": "base64"}
        async with session[0].post(f"{setup.url}/embeddings", json=body) as reply:
            document = from_json(await reply.read())
        return np.frombuffer(b64decode(document["data"][0]["embedding"]), dtype="<f4")

    return run


def _ours(make: Callable[..., Any], method: str, **options: Any) -> Callable[[Setup], Run]:
    return lambda setup: getattr(make(setup, **options), method)  # type: ignore[no-any-return]


def _both(
    name: str, label: str, make: Callable[..., Any], methods: tuple[str, str], **options: Any
) -> dict[str, Client]:
    settings = "coalesce=False" if options.get("coalesce") is False else ""
    return {
        name: Client(f"{label}.{methods[0]}", _ours(make, methods[0], **options), "vector", settings=settings),
        f"{name}-async": Client(
            f"{label}.{methods[1]}", _ours(make, methods[1], **options), "vector", is_async=True, settings=settings
        ),
    }


_LANGCHAIN, _LLAMA = ("embed_query", "aembed_query"), ("get_query_embedding", "aget_query_embedding")

SERVICES: dict[str, Client] = {
    **_both("embedder", "Embedder", clients.embedder, _LANGCHAIN, requests_per_second=_NO_PACE),
    **_both("langchain", "NanoGPTEmbeddings", clients.langchain, _LANGCHAIN, requests_per_second=_NO_PACE),
    **_both("llama", "NanoGPTEmbedding", clients.llama, _LLAMA, requests_per_second=_NO_PACE),
    **_both("single", "Embedder", clients.embedder, _LANGCHAIN, requests_per_second=_NO_PACE, coalesce=False),
    "aiohttp-client-async": Client(
        "Embedder.aembed_query", _aembed_aiohttp, "vector", is_async=True, settings="the SDK's aiohttp client"
    ),
    "sdk": clients.QUERIES["sdk"],
    "sdk-async": clients.QUERIES["sdk-async"],
    "sdk-aiohttp-async": Client(
        "OpenAI SDK embeddings.create, async", _sdk_aiohttp, "vector", is_async=True, settings="its aiohttp client"
    ),
    "aiohttp-async": Client("aiohttp by itself", _aiohttp, "vector", is_async=True),
    **_both("langchain-openai", "langchain-openai", clients.langchain_openai, _LANGCHAIN),
    **_both("llama-openai", "LlamaIndex OpenAIEmbedding", clients.llama_openai, _LLAMA),
    # For a granted rate, at their defaults.
    "embedder-paced-async": Client(
        "Embedder.aembed_query", _ours(clients.embedder, "aembed_query"), "vector", is_async=True
    ),
    "single-paced-async": Client(
        "Embedder.aembed_query",
        _ours(clients.embedder, "aembed_query", coalesce=False),
        "vector",
        is_async=True,
        settings="coalesce=False",
    ),
}


def under_way(setup: Setup, client: str, numbers: Sequence[int] = UNDER_WAY) -> dict[str, float]:
    """Embed queries with so many under way; give queries per second, and percentiles of their seconds."""
    chosen, found = SERVICES[client], dict[str, float]()

    async def in_loop() -> None:
        run = chosen.make(setup)
        for number in numbers:
            await _in_tasks(run, number, _SECONDS / 4)
            found.update(_figures(number, *await _in_tasks(run, number, _SECONDS)))

    if chosen.is_async:
        asyncio.run(in_loop())
        return found
    run = chosen.make(setup)
    for number in numbers:
        _in_threads(run, number, _SECONDS / 4)
        found.update(_figures(number, *_in_threads(run, number, _SECONDS)))
    return found


def _figures(number: int, times: list[float], seconds: float) -> dict[str, float]:
    p50, p99 = _percentiles(times)
    return {f"rate_{number}": len(times) / seconds, f"p50_{number}": p50, f"p99_{number}": p99}


def _percentiles(times: list[float]) -> tuple[float, float]:
    ordered = sorted(times)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def _texts() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"query number {number} of a service"


def _check(answer: Any) -> None:
    # Text number i of a request gets vector number i, and a query may be any text of its request.
    assert len(answer) == vectors.WIDTH
    assert any(float(answer[0]) == row[0] for row in vectors.vectors()[:2048])


async def _in_tasks(run: AsyncRun, number: int, seconds: float) -> tuple[list[float], float]:
    times, texts = list[float](), _texts()
    start = time.perf_counter()

    async def work() -> None:
        begin = start
        while begin < start + seconds:
            begin = time.perf_counter()
            answer = await run(next(texts))  # type: ignore[arg-type]
            times.append(time.perf_counter() - begin)
        _check(answer)

    await asyncio.gather(*(work() for _ in range(number)))
    return times, time.perf_counter() - start


def _in_threads(run: Run, number: int, seconds: float) -> tuple[list[float], float]:
    times, texts, lock = list[float](), _texts(), threading.Lock()
    start = time.perf_counter()

    def work() -> None:
        begin = start
        while begin < start + seconds:
            with lock:
                text = next(texts)
            begin = time.perf_counter()
            answer = run(text)  # type: ignore[arg-type]
            times.append(time.perf_counter() - begin)
        _check(answer)

    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, time.perf_counter() - start


def arrivals(setup: Setup, client: str, rate: float, count: int = 1000) -> dict[str, float]:
    """Embed queries that arrive at random (Poisson) under the server's rate limit, all of one client.

    Returns:
        Percentiles of their seconds, queries lost, and requests refused in the first second and later.
    """
    return asyncio.run(_arrivals(setup, SERVICES[client].make(setup), rate, count))


async def _arrivals(setup: Setup, run: Any, rate: float, count: int) -> dict[str, float]:
    from benchmarks.speed.child import counted

    generator, times, lost = random.Random(0), list[float](), list[BaseException]()
    await run("the first query imports what is needed")
    await asyncio.sleep(1.05)  # the server forgets it
    counted(setup)

    async def one(text: str) -> None:
        begin = time.perf_counter()
        try:
            answer = await run(text)
        except Exception as error:  # noqa: BLE001 - a client that fails may raise any exception
            lost.append(error)
        else:
            times.append(time.perf_counter() - begin)
            _check(answer)

    async def count_first_second() -> dict[str, Any]:
        await asyncio.sleep(1)
        return await asyncio.to_thread(counted, setup)

    first = asyncio.ensure_future(count_first_second())
    start, at, tasks, texts = time.perf_counter(), 0.0, [], _texts()
    for _ in range(count):
        at += generator.expovariate(rate)
        await asyncio.sleep(max(0.0, start + at - time.perf_counter()))
        tasks.append(asyncio.ensure_future(one(next(texts))))
    await asyncio.gather(*tasks)
    early, late = await first, await asyncio.to_thread(counted, setup)
    p50, p99 = _percentiles(times)
    return {"p50": p50, "p99": p99, "lost": len(lost), "refused_early": early["refused"], "refused": late["refused"]}
