"""Network backend below the shared transports."""

import ssl

import pytest

from nanogpt_core.http import network
from nanogpt_core.http.library import httpcore


def test_requests_go_through_our_network_backend(embed, serve, monkeypatch):
    used = []
    read = network._Connection.read
    monkeypatch.setattr(
        network._Connection, "read", lambda self, max_bytes: (used.append(max_bytes), read(self, max_bytes))[1]
    )
    embed(serve().embedder(), ["a"])
    assert used


def test_certificate_error_without_a_number_is_a_connect_error():
    # truststore raises such errors on macOS and Windows.
    mapped = network._Mapped(httpcore.ConnectTimeout, httpcore.ConnectError)
    with pytest.raises(httpcore.ConnectError, match="not trusted"), mapped:
        raise ssl.SSLCertVerificationError("the certificate is not trusted")
