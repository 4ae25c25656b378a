"""``EmbedTable`` in actors of Ray Data: faults, a rate limit, and an actor that is killed."""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from nanogpt_core import Embedder
from nanogpt_core.sandbox import Fault

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed; make ray tests it")

ROWS = 400
TEXTS_PER_REQUEST, REQUESTS_IN_FLIGHT = 8, 4
GUARD_SECONDS = 600

# Each dataset is embedded by two actors. In the second one, the first actor to reach its third batch is killed.
PROGRAM = """
import contextlib, json, os, signal, sys, threading
from pathlib import Path
import ray
from nanogpt_core import EmbedTable, RedisLimits

folder, redis_url, rows, texts, in_flight = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])

class DyingTable(EmbedTable):
    def __init__(self, *args, flag, **options):
        super().__init__(*args, **options)
        self.flag, self.batches = Path(flag), 0

    def __call__(self, data):
        self.batches += 1
        if self.batches == 3:
            with contextlib.suppress(FileExistsError):
                self.flag.touch(exist_ok=False)
                threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return super().__call__(data)

def embed(name, table, **options):
    options |= {"dimensions": 16, "batch_size": texts, "max_concurrency": in_flight, "max_retries": 20}
    options |= {"cache": f"{folder}/{name}.db", "limits": RedisLimits(redis_url, name, 200)}
    data = ray.data.from_items([{"id": n, "text": f"{name} {n}"} for n in range(rows)]).map_batches(
        table, fn_constructor_kwargs=options, batch_format="pyarrow", batch_size=40, num_cpus=0.25,
        compute=ray.data.ActorPoolStrategy(size=2))
    rows_found = sorted(data.take_all(), key=lambda row: row["id"])
    found = [[row["id"], row["text"], [float(number) for number in row["embedding"]]] for row in rows_found]
    Path(folder, f"{name}.json").write_text(json.dumps(found))

ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20, _temp_dir=folder)
embed("faulty", EmbedTable)
embed("killed", DyingTable, flag=f"{folder}/killed")
ray.shutdown()
"""


@pytest.fixture(scope="module")
def session(shared_sandbox, redis):
    """Rows of both datasets, requests of the service, and the places that hold its key."""
    shared_sandbox.clear()
    shared_sandbox.add_faults(*([None] * 10 + [Fault(503)]) * 4)
    environment = {
        **os.environ,
        "NANOGPT_API_KEY": shared_sandbox.api_key,
        "NANOGPT_BASE_URL": shared_sandbox.base_url,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # The paths of Ray's sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        numbers = map(str, (ROWS, TEXTS_PER_REQUEST, REQUESTS_IN_FLIGHT))
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, folder, redis.url, *numbers],
            env=environment,
            capture_output=True,
            text=True,
            timeout=GUARD_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        key = shared_sandbox.api_key.encode()
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        leaks = [path for path in files if key in path.read_bytes()]
        found = {name: json.loads(Path(folder, f"{name}.json").read_text()) for name in ("faulty", "killed")}
        was_killed = Path(folder, "killed").exists()
    requests = [request for request in shared_sandbox.requests if request.inputs]
    return {**found, "requests": requests, "leaks": leaks, "was_killed": was_killed}


def paid_more_than_once(session, name):
    answered = [request for request in session["requests"] if request.status == 200]
    paid = Counter(text for request in answered for text in request.inputs if text.startswith(name))
    return sum(count - 1 for count in paid.values())


def assert_rows_are_right(rows, name, sandbox):
    texts = [f"{name} {n}" for n in range(ROWS)]
    assert [(number, text) for number, text, _ in rows] == list(enumerate(texts))
    embedder = Embedder(api_key=sandbox.api_key, base_url=sandbox.base_url, dimensions=16)
    assert np.array_equal(np.array([vector for *_, vector in rows], dtype=np.float32), embedder.embed(texts))


def test_actors_embed_all_rows_beside_faults_and_nothing_is_paid_twice(session, shared_sandbox):
    assert_rows_are_right(session["faulty"], "faulty", shared_sandbox)
    assert [request.status for request in session["requests"]].count(503) == 4
    assert paid_more_than_once(session, "faulty") == 0


def test_killed_actor_loses_no_row_and_its_key_is_in_no_file(session, shared_sandbox):
    assert session["was_killed"]
    assert_rows_are_right(session["killed"], "killed", shared_sandbox)
    assert paid_more_than_once(session, "killed") <= TEXTS_PER_REQUEST * REQUESTS_IN_FLIGHT
    assert session["leaks"] == []
