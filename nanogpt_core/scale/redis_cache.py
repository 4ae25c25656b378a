"""``RedisCache``: an embedding cache in Redis, for vectors that several machines ask for again and again."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.fork import ForkSafe
from nanogpt_core._runtime.validation import check_positive
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.scale.redis_address import RedisAddress
from nanogpt_core.scale.redis_errors import drop_frames, server_words

_DEFAULT_TTL_SECONDS = 7 * 86_400.0
_KEYS_PER_COMMAND = 512  # a longer command would keep other clients of the server waiting
_SLOW_SECONDS = 0.25  # a failure that takes longer would delay each call while the server does not answer
_AWAY_SECONDS = 10.0

_inherited: list[Any] = []  # clients of a parent process, unused: to close one may wait for a lock, as to use it


class RedisCache(ForkSafe):
    """An embedding cache in Redis or Valkey, shared by threads, processes, forks and machines.

    It is for a few million vectors that are asked for often, such as those of queries. For a corpus, the table that the
    job writes is the cache: 100 million vectors of 1536 dimensions would take 730 GB of the server's memory. Each
    vector takes, by ``MEMORY USAGE`` of Redis 7.0, 1.4 kB at 256 dimensions, 5.2 kB at 1024, 7.3 kB at 1536 and
    14.4 kB at 3072; of Valkey 9.1, about 15 % less.

    Each method is one pipeline, and so one round trip. All entries of a call are stored in one transaction; in a
    cluster, each by itself. If the server is unreachable, the call warns once and continues without the cache. It waits
    2 seconds for an answer, or the ``socket_timeout`` of the URL; the calls of the next 10 seconds then do not ask. A
    server with ``maxmemory-policy allkeys-lru`` evicts the entries that are used least; do not keep
    :class:`nanogpt_core.RedisLimits` on it. A pickle leaves the password out, as that of ``RedisLimits`` does.

    Args:
        url: As for :class:`nanogpt_core.RedisLimits`. Default: ``NANOGPT_REDIS_URL``.
        ttl: Seconds until an entry expires, from when it is stored, or None for never. Default: seven days.
        prefix: Prefix of all keys. Default: ``"nanogpt-cache"``.
        cluster: Whether ``url`` is a node of a Redis Cluster. Default: False.

    Raises:
        ConfigurationError: An invalid value. It is a ``ValueError``.
        InvalidTypeError: A value of the wrong type. It is a ``TypeError``.
        ImportError: redis-py is not installed; the extra ``redis`` brings it.

    Example:
        >>> embedder = Embedder(cache=RedisCache("redis://10.0.0.5:6379", ttl=86_400))
    """

    def __init__(
        self,
        url: str | None = None,
        ttl: float | None = _DEFAULT_TTL_SECONDS,
        *,
        prefix: str = "nanogpt-cache",
        cluster: bool = False,
    ) -> None:
        check_positive("ttl", ttl, at_least=0.001)
        if not isinstance(prefix, str):
            raise InvalidTypeError(f"prefix must be a str, not {type(prefix).__name__}.")
        if not prefix:
            raise ConfigurationError("prefix is empty.")
        self.__setstate__((RedisAddress(url, cluster=cluster), ttl, prefix))

    def __getstate__(self) -> tuple[RedisAddress, float | None, str]:
        return self._address, self._ttl, self._prefix

    def __setstate__(self, state: tuple[RedisAddress, float | None, str]) -> None:
        self._address, self._ttl, self._prefix = state
        self._client: Any = None
        self._away_until = -math.inf
        self._failure: Callable[[], Exception] = RuntimeError  # makes the error of a server that did not answer
        super().__init__()

    def _in_child(self) -> None:
        # A thread of the parent may have held a lock of redis-py's pool.
        _inherited.append(self._client)
        self._client = None

    def get_many(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the entries found for ``keys``."""
        if not keys:
            return {}
        names = [self._name(key) for key in keys]
        with self._pipeline(transaction=False) as pipeline:
            if self._address.cluster:
                for name in names:
                    pipeline.get(name)
                entries = pipeline.execute()
            else:
                for start in range(0, len(names), _KEYS_PER_COMMAND):
                    pipeline.mget(names[start : start + _KEYS_PER_COMMAND])
                entries = [entry for part in pipeline.execute() for entry in part]
        return {key: entry for key, entry in zip(keys, entries, strict=True) if entry is not None}

    def put_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Store entries, all or none; in a cluster, each by itself."""
        if not entries:
            return
        milliseconds = None if self._ttl is None else max(1, round(self._ttl * 1000))
        with self._pipeline(transaction=not self._address.cluster) as pipeline:
            for key, entry in entries.items():
                pipeline.set(self._name(key), entry, px=milliseconds)
            pipeline.execute()

    def close(self) -> None:
        """Close the connections of this process, when no call uses them; a later call makes new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _name(self, key: bytes) -> bytes:
        return self._prefix.encode() + b":" + key

    @contextlib.contextmanager
    def _pipeline(self, *, transaction: bool) -> Iterator[Any]:
        from redis.exceptions import RedisClusterException, RedisError, ResponseError

        began, client = clock.now(), None
        if began < self._away_until:
            raise self._failure()
        try:
            client = self._connected()
            with drop_frames(), client.pipeline(transaction=transaction) as pipeline:
                yield pipeline
        except BaseException as error:
            if not isinstance(error, RedisError):
                # A signal handler may raise before all replies are read: no later command may read them.
                with self._lock:  # other threads may still use the client, which ends with the last of them
                    self._client = None if self._client is client else self._client
            if isinstance(error, (RedisError, RedisClusterException)):
                error.args = (server_words(error),)
                if not isinstance(error, ResponseError):
                    self._note_outage(error, clock.now() - began)
            raise

    def _note_outage(self, error: Exception, seconds: float) -> None:
        """Let the next calls fail with this error without asking the server, if it took long."""
        if seconds > _SLOW_SECONDS:
            self._failure = partial(type(error), str(error))
            self._away_until = clock.now() + _AWAY_SECONDS

    def _connected(self) -> Any:
        with self._lock:  # a second client that is dropped would close its connections while they are used
            if self._client is None:
                self._client = self._address.connect()
            return self._client

    def __repr__(self) -> str:
        return f"RedisCache({self._address.url!r})"
