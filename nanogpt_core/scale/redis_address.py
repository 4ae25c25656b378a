"""Address of a Redis or Valkey server: URL, hidden password and clients."""

from __future__ import annotations

import os
import re
from multiprocessing import reduction
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from nanogpt_core._runtime.extras import missing_extra
from nanogpt_core._runtime.validation import check_bool
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.http.endpoint import check_timeout
from nanogpt_core.http.secrets import Secret

URL_VARIABLE = "NANOGPT_REDIS_URL"
"""Environment variable that holds the URL if none is passed."""

PASSWORD_VARIABLE = "NANOGPT_REDIS_PASSWORD"  # noqa: S105 - a name
"""Environment variable from which an unpickled object takes the password."""

_TIMEOUT_SECONDS = 2.0  # to connect, and for a reply
_SCHEMES = ("redis", "rediss", "unix")


class RedisPassword(Secret):
    """A password that no ``repr`` and no plain pickle shows; reading a pickle takes it from the environment."""

    __slots__ = ()

    def __reduce__(self) -> tuple[object, ...]:
        return _password_from_environment, ()


def _password_from_environment() -> RedisPassword:
    url = urlsplit(os.environ.get(URL_VARIABLE, ""))
    return RedisPassword(os.environ.get(PASSWORD_VARIABLE) or unquote(url.password or ""))


def _send_to_worker(password: RedisPassword) -> tuple[type[RedisPassword], tuple[str]]:
    return RedisPassword, (password.reveal_or_empty(),)


reduction.register(RedisPassword, _send_to_worker)


class RedisAddress:
    """Address of a server.

    Args:
        url: ``redis://``, ``rediss://`` (TLS; options of redis-py such as ``?ssl_ca_certs=ca.pem`` are understood) or
            ``unix://``. Default: ``NANOGPT_REDIS_URL``.
        cluster: Whether it is a node of a Redis Cluster.

    Raises:
        ConfigurationError: The URL is missing or invalid. It is a ``ValueError``.
        InvalidTypeError: An argument of the wrong type. It is a ``TypeError``.
        ImportError: redis-py is not installed.
    """

    def __init__(self, url: str | None, *, cluster: bool = False) -> None:
        check_bool("cluster", cluster)
        try:
            import redis  # noqa: F401
        except ImportError as error:
            raise missing_extra("Redis", "redis", error) from error
        parts = urlsplit(_checked_url(url))
        user = f"{parts.username}@" if parts.username else ""
        host = parts.netloc.rpartition("@")[2]
        query = f"?{parts.query}" if parts.query else ""
        # urlunsplit() would write the URL of a socket with one slash.
        self.url = f"{parts.scheme}://{user}{host}{parts.path}{query}"
        """The URL without its password."""
        self._password = RedisPassword(unquote(parts.password)) if parts.password else None
        self.cluster = cluster
        """Whether it is a node of a Redis Cluster."""
        self._check_options()

    def _check_options(self) -> None:
        from redis import ConnectionPool
        from redis.connection import parse_url
        from redis.exceptions import RedisError

        try:
            options = parse_url(self.url)  # type: ignore[no-untyped-call]
            if not self.cluster:
                ConnectionPool.from_url(self.url).make_connection()  # without connecting
        except (TypeError, ValueError, RedisError) as error:
            raise ConfigurationError(
                f"The URL of the Redis server is not valid: {self.hide_password(str(error))}.",
                remedy='Pass one like "redis://host:6379", with options that redis-py knows.',
            ) from None
        for option in ("socket_timeout", "socket_connect_timeout"):
            if option in options:
                check_timeout(options[option], f"{option} in the URL of the Redis server")

    @property
    def place(self) -> str:
        """Host and port, or the path of the socket, for messages."""
        parts = urlsplit(self.url)
        return parts.netloc.rpartition("@")[2] or parts.path

    def connect(self, *, keeps_connection: bool = False) -> Any:
        """Return a client of redis-py. It connects at its first command.

        Args:
            keeps_connection: Whether the client connects at once, and keeps ``client.connection`` for one thread at a
                time. Without effect in a cluster.

        Raises:
            ConfigurationError: A pickle was read back, and the environment holds no password.
        """
        from redis import Redis
        from redis.backoff import NoBackoff
        from redis.cluster import RedisCluster
        from redis.retry import Retry

        options: dict[str, Any] = {
            "socket_timeout": _TIMEOUT_SECONDS,
            "socket_connect_timeout": _TIMEOUT_SECONDS,
            "retry": Retry(NoBackoff(), 0),  # RedisLimits decides; a cache continues without the server
        }
        if self._password is not None:
            options["password"] = self._password.reveal_or_empty()
            if not options["password"]:
                raise ConfigurationError(
                    f"No password for Redis at {self.place}: a pickled object does not carry it.",
                    remedy=f"Set {PASSWORD_VARIABLE} in the environment of the workers.",
                )
        if keeps_connection and not self.cluster:
            options["single_connection_client"] = True
        return (RedisCluster if self.cluster else Redis).from_url(self.url, **options)

    def hide_password(self, words: str) -> str:
        """Return ``words``, a message of the server or of redis-py, without the password and without a full stop."""
        password = self._password.reveal_or_empty() if self._password else ""
        for secret in {password, quote(password)} - {""}:
            words = words.replace(secret, "***")
        return words.rstrip(".")

    def __repr__(self) -> str:
        return f"RedisAddress({self.url!r})"


def _checked_url(url: str | None) -> str:
    given = os.environ.get(URL_VARIABLE) if url is None else url
    if given is None or given == "":
        raise ConfigurationError(
            "No URL of a Redis server.", remedy=f'Pass url="redis://host:6379" or set {URL_VARIABLE}.'
        )
    if not isinstance(given, str):
        raise InvalidTypeError(f"url must be a str, not {type(given).__name__}.")
    try:
        parts = urlsplit(given)
        _ = parts.port
    except ValueError:  # its text may show a part of a password that is not percent-encoded
        raise ConfigurationError(
            "The URL of the Redis server is not valid: its host or port cannot be read.",
            remedy="Write / # ? [ ] and letters beyond ASCII in a password percent-encoded, for example %2F for /.",
        ) from None
    if parts.scheme not in _SCHEMES:
        # The URL itself stays out of the message, since it may hold a password.
        raise ConfigurationError(
            f"The URL of a Redis server must begin with {', '.join(f'{name}://' for name in _SCHEMES)}.",
            remedy='Pass one like "redis://host:6379" or "rediss://:password@host:6379".',
        )
    if parts.scheme != "unix" and not re.fullmatch(r"/*\d*/*", parts.path):
        # redis-py would take database 0. The path may hold a part of a password.
        raise ConfigurationError(
            "The URL of the Redis server is not valid: only the number of a database may follow its host and port.",
            remedy='Pass one like "redis://host:6379/1", and write a / in a password as %2F.',
        )
    if "decode_responses" in parse_qs(parts.query):
        raise ConfigurationError(
            "The URL of the Redis server has the option decode_responses: vectors are no text.", remedy="Leave it out."
        )
    if "password" in parse_qs(parts.query):
        raise ConfigurationError(
            "The URL of the Redis server holds a password as an option.",
            remedy=f"Write it before the host: {parts.scheme}://:password@host",
        )
    return given
