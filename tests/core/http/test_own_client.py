"""Clients of the caller's own: replies in memory, as in tests of programs that use this package, and event hooks."""

import asyncio
import contextlib
import gzip
import json

import numpy as np
import pytest

from nanogpt_core import (
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConnectionFailedError,
    Embedder,
    RequestTimeoutError,
)
from nanogpt_core.http.sdk import httpx


def test_reply_that_a_mock_transport_has_in_memory_is_read(way, faults):
    def answer(request):
        return httpx.Response(200, json=faults.document(json.loads(request.content)["input"]))

    embedder = Embedder(
        "lab/unlisted",
        api_key="k",
        http_client=httpx.Client(transport=httpx.MockTransport(answer)),
        http_async_client=httpx.AsyncClient(transport=httpx.MockTransport(answer)),
    )
    assert np.array_equal(way.embed(embedder, ["text"]), [faults.vector_of("text")])


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("ConnectError", ConnectionFailedError),
        ("ReadTimeout", RequestTimeoutError),
        ("DecodingError", ConnectionFailedError),  # of a body that an event hook reads
    ],
)
def test_error_of_a_client_of_either_http_library_is_typed(way, library, error, kind):
    module = pytest.importorskip(library)

    def fail(_request):
        raise getattr(module, error)("unplugged")

    embedder = Embedder(
        "lab/unlisted",
        api_key="k",
        max_retries=0,
        http_client=module.Client(transport=module.MockTransport(fail)),
        http_async_client=module.AsyncClient(transport=module.MockTransport(fail)),
    )
    with pytest.raises(kind, match=error):
        way.embed(embedder, ["text"])


@contextlib.contextmanager
def hooked_clients(reads=False, raises=False, uses_up=False):
    """Yield options with a sync and an async client whose event hooks do something with each response."""

    def hook(response):
        if reads:
            response.read()
        if uses_up:
            list(response.iter_raw())
        if raises:
            response.raise_for_status()

    async def async_hook(response):
        if reads:
            await response.aread()
        if uses_up:
            [chunk async for chunk in response.aiter_raw()]
        if raises:
            response.raise_for_status()

    async_client = httpx.AsyncClient(event_hooks={"response": [async_hook]})
    with httpx.Client(event_hooks={"response": [hook]}) as client:
        yield {"http_client": client, "http_async_client": async_client, "max_retries": 2}


@pytest.mark.parametrize("is_compressed", [False, True])
def test_reply_that_an_event_hook_has_read_is_not_read_again(embed, serve, faults, is_compressed):
    def answer(seen):
        body = json.dumps(faults.document(seen.texts)).encode()
        if is_compressed:
            return faults.response(gzip.compress(body), Content_Encoding="gzip", Connection="close")
        return faults.response(body, Connection="close")

    server = serve(answer)
    with hooked_clients(reads=True) as clients:
        assert np.array_equal(embed(server.embedder(**clients), ["text"]), [faults.vector_of("text")])
    assert len(server.requests) == 1


@pytest.mark.parametrize(("status", "kind"), [(401, AuthenticationError), (308, BadRequestError)])
@pytest.mark.parametrize("reads", [False, True])
def test_raise_for_status_in_an_event_hook_leaves_the_error_to_us(embed, serve, faults, status, kind, reads):
    server = serve(lambda _: faults.response({"error": {"message": "told"}}, status, Connection="close"))
    with (
        hooked_clients(reads=reads, raises=True) as clients,
        pytest.raises(kind, match="told" if reads else "no words"),
    ):
        embed(server.embedder(**clients), ["text"])
    assert len(server.requests) == 1


def test_event_hook_that_uses_up_the_reply_is_named(embed, serve, faults):
    server = serve(lambda seen: faults.response(faults.document(seen.texts), Connection="close"))
    with (
        hooked_clients(uses_up=True) as clients,
        pytest.raises(ConfigurationError, match="event hook"),
    ):
        embed(server.embedder(**clients), ["text"])
    assert len(server.requests) == 1


def test_async_client_of_another_event_loop_is_a_clear_error(faults):
    class OfOneLoop(httpx.AsyncBaseTransport):
        future = None

        async def handle_async_request(self, request):
            if self.future is None:
                self.future = asyncio.get_running_loop().create_future()
                return httpx.Response(200, json=faults.document(json.loads(request.content)["input"]))
            return await self.future

    embedder = Embedder("lab/unlisted", api_key="k", http_async_client=httpx.AsyncClient(transport=OfOneLoop()))
    asyncio.run(embedder.aembed(["text"]))
    with pytest.raises(ConfigurationError, match="another event loop"):
        asyncio.run(embedder.aembed(["text"]))
