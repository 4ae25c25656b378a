"""Network backend below the shared transports."""

import gc
import ssl

import pytest

from nanogpt_core.http import network
from nanogpt_core.http.sdk import httpcore, httpx


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
