"""Secrets: the API key and the headers' values. No ``repr``, no pickle on a disk and no error shows them.

A service, or a proxy before it, may repeat the key or a header in its messages: :func:`redacted` hides them.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from multiprocessing import reduction
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from nanogpt_core.errors import ConfigurationError, InvalidTypeError, NanoGPTError, causes

if TYPE_CHECKING:
    from nanogpt_core.http.endpoint import Endpoint

KEY_VARIABLES = ("NANOGPT_API_KEY", "NANO_GPT_API_KEY")
"""Environment variables that may hold the key, in the order in which they are read."""

_KEY_OPTIONS = ("api_key", "openai_api_key", "nanogpt_api_key")
_HEADERS_OPTION = "default_headers"
_PLACEHOLDER = re.compile(r"\$\{.*\}|\$[A-Za-z_]+|\{\{.*\}\}|%[A-Za-z_]+%|<.*>")
_QUOTES = ("'", '"')
_KEY_REMEDY = "Pass api_key=... or set NANOGPT_API_KEY (see https://nano-gpt.com/api)."
_HIDDEN = "**********"
_MIN_KEY_CHARACTERS = 6  # a few letters can stand anywhere; a key is longer
_MIN_HEADER_CHARACTERS = 8
# Headers without secrets. Their values, such as a URL, may stand in our own messages.
_PUBLIC_HEADERS = frozenset(
    (
        *("accept", "accept-encoding", "accept-language", "connection", "content-length", "content-type", "host"),
        *("http-referer", "origin", "referer", "user-agent", "x-title"),
    )
)


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
    return resolve_key(None, required=False) or Secret("")


reduction.register(Secret, lambda secret: (Secret, (secret._value,)))


class SecretHeaders(dict[str, str]):
    """HTTP headers that no ``repr`` and no plain pickle shows, as :class:`Secret` does for the key.

    Copies in this process keep them, and so does a pickle that ``multiprocessing`` sends to a worker.
    """

    def __repr__(self) -> str:
        return f"SecretHeaders({', '.join(map(str, self))})"

    def __copy__(self) -> SecretHeaders:
        return self

    def __deepcopy__(self, memo: object) -> SecretHeaders:
        return self

    def __reduce__(self) -> tuple[type[SecretHeaders], tuple[()]]:
        return SecretHeaders, ()


reduction.register(SecretHeaders, lambda headers: (SecretHeaders, (dict(headers),)))


def hide_key(api_key: ApiKey) -> Secret | None:
    """Return ``api_key`` as a :class:`Secret`, unchecked; None if it is None.

    Constructors call it first: tools that print the variables of a traceback's frames must not see the key.
    """
    if api_key is None or isinstance(api_key, Secret):
        return api_key
    return Secret(api_key.get_secret_value() if isinstance(api_key, SecretLike) else api_key)


def hide_if_secret(name: str, value: Any) -> Any:
    """Return the value of an option; the key as a :class:`Secret`, and headers as :class:`SecretHeaders`."""
    if name in _KEY_OPTIONS and isinstance(value, str):
        return hide_key(value)
    return SecretHeaders(value) if name == _HEADERS_OPTION and isinstance(value, Mapping) else value


def hide_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``options`` without a secret that ``repr`` shows. Callers replace their variable: see :func:`hide_key`."""
    return {name: hide_if_secret(name, value) for name, value in options.items()}


def resolve_key(api_key: ApiKey, *, required: bool = True) -> Secret | None:
    """Return the key that the argument or the environment gives; None if there is none, and none is ``required``.

    Raises:
        ConfigurationError: There is none, or it has characters that no header may have. It is not shown.
        InvalidTypeError: It is neither a string nor a ``SecretStr``.
    """
    api_key = hide_key(api_key)
    if api_key is not None:
        return _check_key(api_key, "api_key")
    variable = next((name for name in KEY_VARIABLES if os.environ.get(name, "").strip()), None)
    if variable is not None:
        return _check_key(Secret(os.environ[variable]), variable)
    if required:
        raise ConfigurationError(f"No API key: {' and '.join(KEY_VARIABLES)} are unset or empty.", remedy=_KEY_REMEDY)
    return None


def _check_key(key: Secret, source: str) -> Secret:
    # The key is in no variable here: a traceback with variables would show it.
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
    if _PLACEHOLDER.fullmatch(key.reveal_or_empty()):
        raise ConfigurationError(
            f"{source} is a placeholder that was not replaced (not shown).",
            remedy="Some tools do not expand variables in files: put the key itself there.",
        )
    return key


# --- errors ---


@contextlib.contextmanager
def redacted(endpoint: Endpoint) -> Iterator[None]:
    """Let errors out of the block without the endpoint's key and headers, in them or in their causes."""
    try:
        yield
    except NanoGPTError as error:
        for cause in causes(error):
            for secret in _secrets(endpoint):
                _redact(cause, secret)
        raise


def without_secrets(text: str, endpoint: Endpoint) -> str:
    """Return ``text`` without the endpoint's key and headers."""
    for secret in _secrets(endpoint):
        text = text.replace(secret, _HIDDEN)
    return text


def _secrets(endpoint: Endpoint) -> list[str]:
    """Return the texts to hide, long ones first: one may contain another."""
    key = endpoint.key.reveal_or_empty() if endpoint.key else ""
    secrets = {key} if len(key) >= _MIN_KEY_CHARACTERS else set()
    for name, value in endpoint.headers.items():
        if name.lower() not in _PUBLIC_HEADERS:
            # The word after a scheme such as Bearer may be repeated without it.
            secrets |= {part for part in (value, value.rpartition(" ")[2]) if len(part) >= _MIN_HEADER_CHARACTERS}
    return sorted(secrets, key=len, reverse=True)


def _redact(error: BaseException, secret: str) -> None:
    error.args = tuple(_without(value, secret) for value in error.args)
    for name, value in vars(error).items():
        # An attribute that cannot be set holds no text of the service's.
        with contextlib.suppress(AttributeError, TypeError):
            setattr(error, name, _without(value, secret))


def _without(value: Any, secret: str) -> Any:
    if isinstance(value, str):
        return value.replace(secret, _HIDDEN)
    if isinstance(value, bytes):
        return value.replace(secret.encode(), _HIDDEN.encode())
    if isinstance(value, dict):
        return {name: _without(item, secret) for name, item in value.items()}
    if isinstance(value, list):
        return [_without(item, secret) for item in value]
    return value
