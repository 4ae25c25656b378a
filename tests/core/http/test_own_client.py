"""Clients of the caller's own whose replies are in memory, as in tests of programs that use this package."""

import json

import numpy as np

from nanogpt_core import Embedder
from nanogpt_core.http.library import httpx


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
