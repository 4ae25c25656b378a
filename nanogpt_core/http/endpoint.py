"""The endpoint: base URL, key, headers and time limit, checked, and filled from the environment."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import urlsplit

from nanogpt_core._runtime.validation import check_bool, is_header, number_type_error
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.http.secrets import ApiKey, Secret, SecretHeaders, hide_key, resolve_key

DEFAULT_BASE_URL = "https://nano-gpt.com/api/v1"
"""NanoGPT's API (reference page)."""

BASE_URL_VARIABLE = "NANOGPT_BASE_URL"
"""Environment variable that may hold the base URL."""

CHAT_TIMEOUT = 600.0
"""Seconds that an attempt at a chat answer may take by default, as in the OpenAI SDK.

A model may think for minutes, and an attempt that is given up may be billed.
"""

DEFAULT_TIMEOUT = 60.0
"""Seconds that one request may take."""

_LONGEST_TIMEOUT = 86_400
_HOST = re.compile(r"(?!-)([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{0,62}[A-Za-z0-9_]\.?")
_URL_CHARACTERS = re.compile(r"[\w.~!$&'()*+,;=:@%/-]*", re.ASCII)

_SALT = secrets.token_bytes(16)
_HEADERS_OF_THE_BODY = ("content-encoding", "content-length", "content-type", "transfer-encoding")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Base URL, key, headers and time limit. Safe to print and to pickle: neither holds the key or the headers' values.

    Attributes:
        key: The API key; None for calls without one.
        base_url: Base URL of the API, without a slash at the end.
        timeout: Seconds that one request may take, from sending it to the last byte of its reply.
        headers: Headers to send beside the usual ones.
    """

    key: Secret | None
    base_url: str = DEFAULT_BASE_URL
    timeout: float = DEFAULT_TIMEOUT
    headers: Mapping[str, str] = field(default_factory=SecretHeaders, repr=False)

    @classmethod
    def resolve(
        cls,
        *,
        api_key: ApiKey = None,
        base_url: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        headers: Mapping[str, str] | None = None,
        allow_insecure_http: bool = False,
        key_required: bool = True,
    ) -> Endpoint:
        """Check the arguments and fill the gaps from the environment.

        ``allow_insecure_http`` lets texts and key travel unencrypted to a host that is not this machine;
        ``key_required`` is False for calls that the service answers without a key.

        Raises:
            ConfigurationError: An invalid value, or no key although one is needed.
            InvalidTypeError: A value of the wrong type.
        """
        api_key = hide_key(api_key)
        check_bool("allow_insecure_http", allow_insecure_http)
        key = resolve_key(api_key, required=key_required)
        return cls(key, resolve_base_url(base_url, allow_insecure_http), check_timeout(timeout), check_headers(headers))

    @property
    def host(self) -> str:
        """The host and port that requests go to."""
        return urlsplit(self.base_url).netloc

    @property
    def digest(self) -> bytes:
        """A digest of base URL and key, which stands for the endpoint in this process."""
        key = self.key.reveal_or_empty() if self.key else ""
        # The salt keeps the key from being guessed from the digest.
        return hashlib.blake2b(f"{self.base_url}\n{key}".encode(), key=_SALT).digest()


def resolve_base_url(base_url: str | None, allow_insecure_http: bool = False) -> str:
    """Return the base URL that the argument or the environment gives, without a slash at the end."""
    if base_url is None and os.environ.get(BASE_URL_VARIABLE, "").strip():
        try:
            return resolve_base_url(os.environ[BASE_URL_VARIABLE], allow_insecure_http)
        except ConfigurationError as error:
            raise ConfigurationError(f"{BASE_URL_VARIABLE}: {error.message}", remedy=error.remedy) from None
    base_url = DEFAULT_BASE_URL if base_url is None else base_url
    if not isinstance(base_url, str):
        raise InvalidTypeError(f"base_url must be a str, not {type(base_url).__name__}.")
    url = base_url.strip().rstrip("/")
    if not url.isprintable() or " " in url:
        # Python's URL parser would leave out line breaks and go on.
        raise ConfigurationError("base_url holds a blank or a control character.", remedy="Copy it again.")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError("base_url is not a URL.", remedy=f"Use one like {DEFAULT_BASE_URL}.") from error
    if "@" in parts.netloc:
        raise ConfigurationError("base_url must not hold a user or password.", remedy="Use api_key or default_headers.")
    if "?" in url or "#" in url:
        raise ConfigurationError("base_url must not have a query or a fragment.", remedy="Leave out what follows.")
    plain = _URL_CHARACTERS.fullmatch(parts.path)
    if parts.scheme not in ("http", "https") or not host or not is_host(host) or not plain:
        # Not shown: it may well be a key in the wrong place.
        raise ConfigurationError("base_url is not an http(s) URL.", remedy=f"Use one like {DEFAULT_BASE_URL}.")
    if parts.path.endswith(("/embeddings", "/completions", "/embedding-models")):
        raise ConfigurationError(f"base_url {url!r} names an endpoint.", remedy="Leave the endpoint's name out.")
    if parts.scheme == "http" and not allow_insecure_http and not is_loopback(host):
        raise ConfigurationError(
            f"base_url {url!r} would send the key and the texts unencrypted to another machine.",
            remedy="Use https://, or pass allow_insecure_http=True if that is meant.",
        )
    return url


def is_host(host: str) -> bool:
    """Return whether a text is a host's name or IP address."""
    if ":" in host:
        with contextlib.suppress(ValueError):
            return bool(ip_address(host))
        return False
    is_encoded = host.lower().startswith("xn--")
    if host.isascii() and not is_encoded:
        return bool(_HOST.fullmatch(host))
    import idna  # comes with the SDK's HTTP client, which asks the same

    with contextlib.suppress(idna.IDNAError):
        return bool(idna.decode(host) if is_encoded else idna.encode(host))
    return False


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def check_timeout(timeout: float, name: str = "timeout") -> float:
    """Return ``timeout`` as a float if it is a number of seconds that an attempt may take."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise number_type_error(name, timeout)
    if not 0 < timeout <= _LONGEST_TIMEOUT:
        raise ConfigurationError(f"{name} must be above 0 and at most {_LONGEST_TIMEOUT:,} seconds.")
    return float(timeout)


def check_headers(headers: Mapping[str, str] | None, option: str = "default_headers") -> SecretHeaders:
    """Return the headers of an option if all of them are legal."""
    if headers is None:
        return SecretHeaders()
    if not isinstance(headers, Mapping):
        raise InvalidTypeError(f"{option} must be a mapping of str to str, not {type(headers).__name__}.")
    for name in headers:
        # No variable holds a value: a traceback with variables would show it.
        if not isinstance(name, str) or not isinstance(headers[name], str):
            raise InvalidTypeError(f"{option} must map str to str; the entry {name!r} does not.")
        if name.lower() in _HEADERS_OF_THE_BODY:
            raise ConfigurationError(
                f"{option}: {name!r} describes the body of a request, which this package writes.",
                remedy="Leave it out.",
            )
        if not is_header(name, headers[name]):
            raise ConfigurationError(f"{option}: the entry {name!r} is not a legal HTTP header (value not shown).")
    return SecretHeaders(headers)
