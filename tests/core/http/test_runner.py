"""Running generators on an event loop; the tests of embeddings and chat cover everything else."""

import asyncio
import threading

import pytest

from nanogpt_core.http.client import HttpReply
from nanogpt_core.http.runner import Run, Yield, run_async

LARGE = 1 << 20


@pytest.mark.parametrize("caches", [True, False])
async def test_large_replies_are_parsed_one_after_another_also_after_they_were_cached(caches):
    order, lock, cached = [], asyncio.Lock(), threading.Barrier(2)

    async def send(_request):
        await asyncio.sleep(0)
        return HttpReply(b"x" * LARGE, None)

    def parse(name):
        reply = yield "request"
        assert len(reply.body) == LARGE
        if caches:
            yield Run(lambda: cached.wait(60))
        for _ in range(3):
            order.append(name)
            yield Yield()

    await asyncio.gather(*(run_async(parse(name), send, parse_lock=lock) for name in "ab"))
    assert sorted(order[:3]) in (["a"] * 3, ["b"] * 3)
