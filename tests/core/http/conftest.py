"""Fixtures for TLS: a certificate authority, and trust in it."""

import subprocess
from types import SimpleNamespace

import pytest
import trustme

from nanogpt_core.http.environment import tls_context


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """A certificate authority, its certificate file, and a folder in OpenSSL's layout."""
    authority, folder = trustme.CA(), tmp_path_factory.mktemp("authority")
    authority.cert_pem.write_to_path(folder / "authority.pem")
    subprocess.run(["openssl", "rehash", folder], check=True, capture_output=True, timeout=300)
    variables = {"SSL_CERT_FILE": str(folder / "authority.pem"), "SSL_CERT_DIR": str(folder)}
    return SimpleNamespace(ca=authority, variables=variables)


@pytest.fixture
def trust(monkeypatch):
    """Trust an authority, by one of the variables of certificates."""

    def trust(authority, variable="SSL_CERT_FILE"):
        for name, value in authority.variables.items():
            monkeypatch.setenv(name, value if name == variable else "")
        tls_context.cache_clear()

    yield trust
    tls_context.cache_clear()
