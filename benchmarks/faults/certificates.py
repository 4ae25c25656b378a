"""Certificates that a client should not trust, and one that it may."""

from __future__ import annotations

import ssl
from datetime import datetime, timedelta, timezone
from pathlib import Path

import trustme

KINDS = ("unknown issuer", "other host", "expired", "trusted")


class Certificates:
    """Certificates of an authority of their own.

    Args:
        folder: Folder for the authority's certificate, for clients that trust it.
    """

    def __init__(self, folder: Path) -> None:
        self._authority = trustme.CA()
        self.trusted = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(self.trusted)

    def environment(self, kind: str) -> dict[str, str]:
        """Return the variables by which a client trusts the authority, for the kinds that need it to."""
        return {} if kind == "unknown issuer" else {"SSL_CERT_FILE": str(self.trusted)}

    def context(self, kind: str) -> ssl.SSLContext:
        """Return the TLS context of a server, with a certificate of ``kind``."""
        now = datetime.now(timezone.utc)
        past = {"not_before": now - timedelta(days=9), "not_after": now - timedelta(days=2)}
        name = "elsewhere.invalid" if kind == "other host" else "127.0.0.1"
        certificate = self._authority.issue_cert(name, **(past if kind == "expired" else {}))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        return context
