"""Proxies and certificates from the environment, read and checked as a request needs them.

A variable that cannot be used is a :class:`~nanogpt_core.errors.ConfigurationError` that names it. Requests to this
machine use no proxy.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import ssl
import urllib.request
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import idna  # comes with the HTTP client of the SDK

from nanogpt_core.errors import ConfigurationError
from nanogpt_core.http.endpoint import is_host, is_loopback
from nanogpt_core.http.sdk import httpx

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class Proxy(NamedTuple):
    """A proxy, and the variable that it comes from. Its text is for messages, without credentials."""

    url: str
    variable: str

    def __repr__(self) -> str:  # also in tracebacks with the values of variables
        return f"{self.variable}={_without_credentials(self.url)}"


def proxy_for(scheme: str, host: str, port: int | None) -> Proxy | None:
    """Return the proxy that requests to an origin go through, or None.

    ``HTTPS_PROXY`` or ``HTTP_PROXY``, by the origin's scheme, goes before ``ALL_PROXY``; lower-case names go first.
    Without any such variable, the settings of macOS or Windows apply.

    Raises:
        ConfigurationError: The proxy's URL cannot be used.
    """
    if is_loopback(host):
        return None
    from_environment = urllib.request.getproxies_environment()
    proxies = from_environment or urllib.request.getproxies()
    for kind in (scheme, "all"):
        if value := proxies.get(kind, "").strip():
            break
    else:
        return None
    if from_environment:
        if is_in_no_proxy(proxies.get("no", ""), host, port or _DEFAULT_PORTS[scheme]):
            return None
    elif urllib.request.proxy_bypass(host):
        return None
    return _checked_proxy(_variable(f"{kind}_proxy"), value)


def _variable(name: str) -> str:
    spellings = [name, name.upper(), *os.environ]
    return next((each for each in spellings if each in os.environ and each.lower() == name), f"the system's {name}")


def _checked_proxy(variable: str, value: str) -> Proxy:
    url = value if re.match(r"[\w+.-]*://", value, re.ASCII) else f"http://{value}"
    shown = _without_credentials(url)
    scheme = url.partition("://")[0].lower()
    if scheme not in _PROXY_SCHEMES:
        advice = f"socks5://{shown.partition('://')[2]}" if scheme == "socks" else "http://host:port"
        raise _broken(variable, shown, f"has the unknown scheme {scheme!r}", advice)
    try:
        parts = urlsplit(url)
        usable = is_host(parts.hostname or "") and parts.port != 0 and not parts.netloc.endswith(":")
        httpx.Proxy(url)
    except (ValueError, httpx.InvalidURL):
        usable = False
    if not usable:
        raise _broken(variable, shown, "is not the URL of a proxy", f"{scheme}://host:port")
    if scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ConfigurationError(
            f"{variable}={shown} names a SOCKS proxy, which needs the package socksio.",
            remedy="Install it with `pip install socksio`, or unset the variable.",
        )
    return Proxy(url, variable)


def _broken(variable: str, shown: str, fault: str, advice: str) -> ConfigurationError:
    return ConfigurationError(f"{variable}={shown} {fault}.", remedy=f"Set it to a URL like {advice}, or unset it.")


def _without_credentials(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{re.sub(r'(?s)^.*@', '**********@', rest)}"


def is_in_no_proxy(no_proxy: str, host: str, port: int) -> bool:
    """Return whether the value of ``NO_PROXY`` exempts a host.

    An entry is ``*``, a host (which stands for the hosts below it too), ``.host``, ``*.host``, an IP address or a range
    in CIDR notation; each may have a port or a scheme. Entries are separated by commas or blanks.
    """
    host = _plain_host(host.strip("[]"))
    return any(_exempts(entry.lower(), host, port) for entry in re.split(r"[,\s]+", no_proxy) if entry)


def _plain_host(host: str) -> str:
    """Return a host's name or address in the form in which it is compared."""
    with contextlib.suppress(ValueError):
        return str(ip_address(host))
    host = host.rstrip(".").lower()
    if not host.isascii():
        with contextlib.suppress(UnicodeError):
            host = idna.encode(host, uts46=True).decode()
    return host


def _exempts(entry: str, host: str, port: int) -> bool:
    entry = entry.rpartition("://")[2]
    if entry == "*":
        return True
    address = None
    with contextlib.suppress(ValueError):
        address = ip_address(host)
    with contextlib.suppress(ValueError):
        network = ip_network(entry.strip("[]"), strict=False)
        return address is not None and address in network
    bracketed = re.fullmatch(r"(?:\[([^]]+)\]|([^:]+))(?::(\d+))?", entry.partition("/")[0])
    if bracketed is None:
        return False
    name, given_port = bracketed[1] or bracketed[2], bracketed[3]
    if given_port and int(given_port) != port:
        return False
    if bracketed[1] or address is not None:
        return _plain_host(name) == host
    name = _plain_host(name.removeprefix("*").strip("."))
    return host == name or host.endswith("." + name)


@cache
def tls_context() -> ssl.SSLContext:
    """Return the settings for TLS, with the authorities of ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` if one is set.

    They are read once in a process, which takes 30 ms.

    Raises:
        ConfigurationError: A variable names files that cannot be used.
    """
    file, folders = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if not file and folders and not any(Path(one).is_dir() for one in folders.split(os.pathsep)):
        raise _unusable(f"SSL_CERT_DIR={folders} is not a folder.")
    log = os.environ.get("SSLKEYLOGFILE")
    if log:
        try:
            with Path(log).open("ab"):
                pass
        except OSError as error:
            raise _unusable(f"SSLKEYLOGFILE={log} cannot be written ({error.strerror}).") from error
    try:
        context: ssl.SSLContext = httpx.create_ssl_context()
    except (OSError, ValueError) as error:
        if not file:
            raise
        raise _unusable(f"SSL_CERT_FILE={file} is not a readable file of certificates ({error}).") from error
    return context


def _unusable(message: str) -> ConfigurationError:
    return ConfigurationError(message, remedy="Correct it, or unset it.")
