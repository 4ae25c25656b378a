"""Network backend below the shared transports."""

import asyncio
import gc
import ssl

import pytest

from nanogpt_core.http import network
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.sdk import httpcore, httpx
from nanogpt_core.http.transport import Transport


def test_requests_go_through_our_network_backend(embed, serve, monkeypatch):
    used = []
    read = network._Connection._read_steps
    monkeypatch.setattr(
        network._Connection, "_read_steps", lambda self, max_bytes: (used.append(max_bytes), read(self, max_bytes))[1]
    )
    embed(serve().embedder(), ["a"])
    assert used


def test_certificate_error_without_a_number_is_a_connect_error():
    # truststore raises such errors on macOS and Windows.
    mapped = network._as_httpcore_errors(httpcore.ConnectTimeout, httpcore.ConnectError)
    with pytest.raises(httpcore.ConnectError, match="not trusted"), mapped:
        raise ssl.SSLCertVerificationError("the certificate is not trusted")


def test_reply_is_released_without_the_garbage_collector(embed, serve):
    def replies():
        return sum(type(each) is httpx.Response for each in gc.get_objects())

    embedder = serve().embedder()
    embed(embedder, ["a"])
    gc.collect()
    before = replies()
    gc.disable()
    try:
        embed(embedder, ["b"])
        assert replies() == before
    finally:
        gc.enable()


async def test_event_loop_has_a_turn_after_each_large_reply_that_was_received():
    loop, arrived, turns = asyncio.get_running_loop(), asyncio.Event(), [0]
    begun, read_in = [], []

    def count_turns():
        turns[0] += 1
        counting[0] = loop.call_soon(count_turns)

    async def parts():
        yield b"x" * (1 << 20)
        begun.append(True)
        if len(begun) == 4:
            arrived.set()
        await arrived.wait()  # all replies end in one turn
        yield b"x"

    async def read():
        await client.get("http://127.0.0.1/v1/models")  # joins the parts
        read_in.append(turns[0])

    counting = [loop.call_soon(count_turns)]
    own_client = httpx.AsyncClient(transport=httpx.MockTransport(lambda _: httpx.Response(200, content=parts())))
    client = httpx.AsyncClient(transport=Transport(Endpoint(None, "http://127.0.0.1"), own_client))
    await asyncio.gather(*(read() for _ in range(4)))
    counting[0].cancel()
    assert len(set(read_in)) == 4
