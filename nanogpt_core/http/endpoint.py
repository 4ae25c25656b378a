"""Everything about reaching NanoGPT: key, base URL, headers, time limit, and the environment variables behind them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from multiprocessing import reduction
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit

from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.validation import check_bool

DEFAULT_BASE_URL = "https://nano-gpt.com/api/v1"
"""NanoGPT's API (reference page)."""

KEY_VARIABLES = ("NANOGPT_API_KEY", "NANO_GPT_API_KEY")
"""Environment variables that may hold the key, in the order in which they are read."""

BASE_URL_VARIABLE = "NANOGPT_BASE_URL"
"""Environment variable that may hold the base URL."""

CHAT_TIMEOUT = 600.0
"""Seconds that an attempt at a chat answer may take by default, as in the OpenAI SDK.

A model may think for minutes, and an attempt that is given up may be billed.
"""

DEFAULT_TIMEOUT = 60.0
"""Seconds that one request may take."""

_KEY_OPTIONS = ("api_key", "openai_api_key", "nanogpt_api_key")
_LONGEST_TIMEOUT = 86_400
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?")
_URL_CHARACTERS = re.compile(r"[\w.~!$&'()*+,;=:@%/-]*", re.ASCII)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"([!-~]([ \t!-~]*[!-~])?)?")

_HEADERS_OF_THE_BODY = ("content-encoding", "content-length", "content-type", "transfer-encoding")

_QUOTES = ("'", '"')
_KEY_REMEDY = "Pass api_key=... or set NANOGPT_API_KEY (see https://nano-gpt.com/api)."


@runtime_checkable
class SecretLike(Protocol):
    """An object that holds a secret, such as pydantic's ``SecretStr``."""

    def get_secret_value(self) -> str:
        """Return the secret itself."""


ApiKey = str | SecretLike | None
"""Accepted kinds of keys: text, a ``SecretStr``, or None for the environment."""


class Secret:
    """An API key that no ``repr``, ``str``, dump or plain pickle shows.

    A copy in this process carries the key. So does one that ``multiprocessing`` sends through its own pipe to a worker,
    which is never written anywhere. Any other pickle leaves the key out, and reading it back takes the key from the
    environment.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value.strip() if isinstance(value, str) else value

    def get_secret_value(self) -> str:
        """Return the key.

        Raises:
            ConfigurationError: A pickle was read back, and the environment holds no key.
        """
        if not self._value:
            raise ConfigurationError("No API key: a pickled object does not carry its key.", remedy=_KEY_REMEDY)
        return self._value

    def reveal_or_empty(self) -> str:
        """Return the key, or an empty string if a pickle has left it out."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('**********')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    # No hash: a hash of the key would be an output of the key.
    __hash__ = None  # type: ignore[assignment]

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _secret_from_environment, ()


def _secret_from_environment() -> Secret:
    return Secret("") if _key_variable() is None else resolve_key(None)


def _send_to_worker(secret: Secret) -> tuple[type[Secret], tuple[str]]:
    return Secret, (secret._value,)


reduction.register(Secret, _send_to_worker)


class SecretHeaders(dict[str, str]):
    """HTTP headers that no ``repr`` and no plain pickle shows, as :class:`Secret` does for the key.

    Copies in this process keep them, and so does a pickle that ``multiprocessing`` sends to a worker.
    """

    def __repr__(self) -> str:
        return f"SecretHeaders({', '.join(self)})"

    __str__ = __repr__

    def __copy__(self) -> SecretHeaders:
        return self

    def __deepcopy__(self, memo: object) -> SecretHeaders:
        return self

    def __reduce__(self) -> tuple[type[SecretHeaders], tuple[()]]:
        return SecretHeaders, ()


def _send_headers_to_worker(headers: SecretHeaders) -> tuple[type[SecretHeaders], tuple[dict[str, str]]]:
    return SecretHeaders, (dict(headers),)


reduction.register(SecretHeaders, _send_headers_to_worker)


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

        Args:
            api_key: The key. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
            base_url: Base URL of the API. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
            timeout: Seconds that one request may take.
            headers: Headers to send beside the usual ones.
            allow_insecure_http: Let texts and key travel unencrypted to a host that is not this machine.
            key_required: False for calls that the service answers without a key.

        Raises:
            ConfigurationError: A value that cannot be right, or no key although one is needed.
            InvalidTypeError: A value of the wrong type.
        """
        api_key = hide_key(api_key)
        check_bool("allow_insecure_http", allow_insecure_http)
        needs_key = key_required or api_key is not None or _key_variable() is not None
        key = resolve_key(api_key) if needs_key else None
        return cls(
            key, resolve_base_url(base_url, allow_insecure_http), _check_timeout(timeout), _check_headers(headers)
        )

    @property
    def host(self) -> str:
        """The host and port that requests go to."""
        return urlsplit(self.base_url).netloc


def hide_key(api_key: ApiKey) -> Secret | None:
    """Return ``api_key`` as a :class:`Secret`, unchecked; None if it is None.

    Constructors call it first: tools that print the variables of a traceback's frames must not see the key.
    """
    if api_key is None or isinstance(api_key, Secret):
        return api_key
    return Secret(api_key.get_secret_value() if isinstance(api_key, SecretLike) else api_key)


def hide_keys(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` with the key, under any name of its option, as a :class:`Secret`; see :func:`hide_key`."""
    return {
        name: hide_key(value) if name in _KEY_OPTIONS and isinstance(value, str) else value
        for name, value in options.items()
    }


def resolve_key(api_key: ApiKey) -> Secret:
    """Return the key that the argument or the environment gives.

    Raises:
        ConfigurationError: There is none, or it has characters that no header may have. It is not shown.
        InvalidTypeError: It is neither a string nor a ``SecretStr``.
    """
    api_key = hide_key(api_key)
    if api_key is not None:
        return _check_key(api_key)
    variable = _key_variable()
    if variable is None:
        raise ConfigurationError(f"No API key: {' and '.join(KEY_VARIABLES)} are unset.", remedy=_KEY_REMEDY)
    return _check_key(Secret(os.environ[variable]), variable)


def _key_variable() -> str | None:
    return next((name for name in KEY_VARIABLES if os.environ.get(name, "").strip()), None)


def _check_key(key: Secret, source: str = "api_key") -> Secret:
    if not isinstance(key.reveal_or_empty(), str):
        raise InvalidTypeError(f"api_key must be a str or a SecretStr, not {type(key.reveal_or_empty()).__name__}.")
    if not key.reveal_or_empty():
        raise ConfigurationError("api_key is empty.", remedy=_KEY_REMEDY)
    if not all("!" <= character <= "~" for character in key.reveal_or_empty()):
        raise ConfigurationError(
            f"{source} has a blank, a line break or a character outside ASCII (the key is not shown).",
            remedy="Copy it again: a key looks like sk-nano-... or a bare UUID.",
        )
    if key.reveal_or_empty()[0] in _QUOTES or key.reveal_or_empty()[-1] in _QUOTES:
        raise ConfigurationError(
            f"{source} is in quotes (the key is not shown).",
            remedy="Remove them: Docker, for example, keeps the quotes of a file of variables.",
        )
    return key


def resolve_base_url(base_url: str | None, allow_insecure_http: bool = False) -> str:
    """Return the base URL that the argument or the environment gives, without a slash at the end.

    Raises:
        ConfigurationError: It is not an http(s) URL that can be used, or is plain HTTP to another machine.
        InvalidTypeError: It is not a string.
    """
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
    if parts.username or parts.password:
        raise ConfigurationError("base_url must not hold a user or password.", remedy="Use api_key or default_headers.")
    plain = not parts.query and not parts.fragment and _URL_CHARACTERS.fullmatch(parts.path)
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
    if host.isascii():
        return bool(_HOST.fullmatch(host))
    import idna  # comes with the SDK's HTTP client, which asks the same

    with contextlib.suppress(idna.IDNAError):
        return bool(idna.encode(host))
    return False


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _check_timeout(timeout: float) -> float:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise InvalidTypeError(f"timeout must be a number of seconds, not {type(timeout).__name__}.")
    if not 0 < timeout <= _LONGEST_TIMEOUT:
        raise ConfigurationError(f"timeout must be above 0 and at most {_LONGEST_TIMEOUT:,} seconds.")
    return float(timeout)


def _check_headers(headers: Mapping[str, str] | None) -> SecretHeaders:
    if headers is None:
        return SecretHeaders()
    if not isinstance(headers, Mapping):
        raise InvalidTypeError(f"default_headers must be a mapping of str to str, not {type(headers).__name__}.")
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidTypeError(f"default_headers must map str to str; the entry {name!r} does not.")
        if name.lower() in _HEADERS_OF_THE_BODY:
            raise ConfigurationError(
                f"default_headers: {name!r} describes the body of a request, which this package writes.",
                remedy="Leave it out.",
            )
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ConfigurationError(
                f"default_headers: the entry {name!r} is not a legal HTTP header (value not shown)."
            )
    return SecretHeaders(headers)
