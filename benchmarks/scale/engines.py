"""One engine's case, run in an environment of its own: ``python -m benchmarks.scale.engines ENGINE REDIS_PROGRAM``.

It prints one JSON line: the result in words, and whether it is as promised.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

from benchmarks.scale.run import redis_server
from benchmarks.scale.service import Service
from nanogpt_core import Embedder, EmbedTable, RedisLimits

ROWS = 20_000
DIMENSIONS = 64
TEXTS_PER_REQUEST, REQUESTS_IN_FLIGHT = 16, 8
DAFT_TEXTS = [f"text number {n}" for n in range(2000)]
DAFT_BATCH_SIZE = 50
DAFT_SECONDS = 180  # Daft's own provider is ended then


class DyingTable(EmbedTable):
    """Kills its process once, in the middle of the requests of a batch: by SIGKILL, as the system would."""

    def __init__(self, *args, flag="", **options):
        super().__init__(*args, **options)
        self.flag, self.batches = flag, 0

    def __call__(self, data):
        self.batches += 1
        # Spark calls once for all batches of a task.
        if self.flag and (self.batches == 3 or not hasattr(data, "schema")):
            with contextlib.suppress(FileExistsError):
                Path(self.flag).touch(exist_ok=False)
                threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return super().__call__(data)


def table_options(folder: str, redis_url: str) -> dict:
    return {
        "dimensions": DIMENSIONS,
        "batch_size": TEXTS_PER_REQUEST,
        "max_concurrency": REQUESTS_IN_FLIGHT,
        "max_retries": 20,
        "cache": f"{folder}/cache.db",
        "limits": RedisLimits(redis_url, "engine"),
    }


def ray_data(service: Service, redis_url: str, folder: str) -> tuple[str, bool]:
    """Two actors, 3 % errors, a rate limit, and one actor killed."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=300 << 20, _temp_dir=folder)
    try:
        rows = [{"id": n, "text": f"text number {n}"} for n in range(ROWS)]
        data = ray.data.from_items(rows).map_batches(
            DyingTable,
            fn_constructor_kwargs={**table_options(folder, redis_url), "flag": f"{folder}/killed"},
            batch_format="pyarrow",
            batch_size=1024,
            num_cpus=0.25,
            compute=ray.data.ActorPoolStrategy(size=2),
        )
        found = sorted(data.take_all(), key=lambda row: row["id"])
    finally:
        ray.shutdown()
    vectors = np.array([row["embedding"] for row in found], dtype=np.float32)
    right = [row["id"] for row in found] == list(range(ROWS)) and _right([row["text"] for row in found], vectors)
    return _judge(service, folder, right)


def dask_frames(service: Service, redis_url: str, folder: str) -> tuple[str, bool]:
    """Partitions in threads, with ``meta`` from the table."""
    import dask.dataframe as dd
    import pandas as pd

    frame = pd.DataFrame({"text": [f"text number {n}" for n in range(ROWS)]})
    table = EmbedTable("text", **table_options(folder, redis_url))
    parts = dd.from_pandas(frame, npartitions=8)
    result = parts.map_partitions(table, meta=table.meta(frame)).compute()
    vectors = np.array(list(result["embedding"]), dtype=np.float32)
    right = list(result.index) == list(range(ROWS)) and _right(list(result["text"]), vectors)
    return _judge(service, folder, right, killed=False)


def spark_frames(service: Service, redis_url: str, folder: str) -> tuple[str, bool]:
    """``mapInArrow`` in two Python workers, one of which is killed."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2,4]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", "1024").config("spark.local.dir", folder)
    spark = builder.getOrCreate()
    try:
        table = DyingTable("text", flag=f"{folder}/killed", **table_options(folder, redis_url))
        rows = [(n, f"text number {n}") for n in range(ROWS)]
        frame = spark.createDataFrame(rows, "id long, text string").repartition(4)
        frame = frame.mapInArrow(table, "id long, text string, embedding array<float>")
        found = sorted(frame.collect(), key=lambda row: row["id"])
    finally:
        spark.stop()
    vectors = np.array([row["embedding"] for row in found], dtype=np.float32)
    texts = [row["text"] for row in found]
    right = [row["id"] for row in found] == list(range(ROWS)) and _right(texts, vectors)
    return _judge(service, folder, right)


def daft_frames(service: Service, redis_url: str, folder: str) -> tuple[str, bool]:
    """2,000 texts in batches of 50 through ``embed_text``, at a grant of 3 requests per second."""
    import daft
    from daft.functions import embed_text

    from nanogpt_core.scale.daft_provider import NanoGPTProvider

    del folder
    provider = NanoGPTProvider(limits=RedisLimits(redis_url, "engine"), max_retries=20)
    column = embed_text(daft.col("text"), provider=provider, dimensions=DIMENSIONS, batch_size=DAFT_BATCH_SIZE)
    started = time.time()
    found = daft.from_pydict({"text": DAFT_TEXTS}).with_column("embedding", column).to_pydict()
    seconds = time.time() - started
    requests = [one for one in service.requests() if one.texts]
    right = _right(found["text"], np.array(found["embedding"], dtype=np.float32))
    words = f"{len(requests)} requests (40 are needed), {seconds:.0f} s, {'all rows right' if right else 'wrong rows'}"
    return words, right and len(requests) <= 60


def daft_openai(service: Service, redis_url: str, folder: str) -> tuple[str, bool]:
    """The same texts and grant with Daft's own OpenAI provider: its default retries, and as many as ours has."""
    del redis_url, folder
    words, before = [], 0
    for name, options in {"default options": {}, "max_retries=20": {"max_retries": 20}}.items():
        command = [sys.executable, "-m", "benchmarks.scale.daft_openai", service.base_url, service.api_key]
        started = time.time()
        try:
            job = subprocess.run(
                [*command, json.dumps(options)], capture_output=True, text=True, check=False, timeout=DAFT_SECONDS
            )
        except subprocess.TimeoutExpired:
            end = "ended before it was complete"
        else:
            error = (job.stderr.strip().splitlines() or [f"code {job.returncode}"])[-1].partition(":")[0]
            end = f"failed with {error}" if job.returncode else f"{int(job.stdout):,} rows"
        seconds = time.time() - started
        requests = [one for one in service.requests() if one.texts][before:]
        before += len(requests)
        refused = sum(one.status == 429 for one in requests)
        paid = sum(len(one.texts) for one in requests if one.status == 200)
        counts = f"{len(requests):,} requests, {refused:,} of them refused, {seconds:.0f} s, {paid:,} texts paid for"
        words.append(f"{name}: {counts}, {end}")
    return "; ".join(words), before > 0


def _right(texts: list[str], vectors: np.ndarray) -> bool:
    """Return whether each row has the vector of its text, by a sandbox that counts nothing."""
    with Service() as other:
        embedder = Embedder(api_key=other.api_key, base_url=other.base_url, dimensions=DIMENSIONS)
        return np.array_equal(vectors, embedder.embed(texts))


def _judge(service: Service, folder: str, right: bool, *, killed: bool = True) -> tuple[str, bool]:
    paid = Counter(text for request in service.requests() if request.status == 200 for text in request.texts)
    twice = sum(count - 1 for count in paid.values())
    died = Path(folder, "killed").exists()
    search = ["grep", "-rlaF", service.api_key, folder]
    leaks = subprocess.run(search, capture_output=True, text=True, check=False).stdout.split()
    words = (
        f"{ROWS:,} rows {'right' if right else 'WRONG'}; worker killed: {'yes' if died else 'no'}; "
        f"texts paid twice: {twice}; files with the key: {len(leaks)}"
    )
    most = TEXTS_PER_REQUEST * REQUESTS_IN_FLIGHT if killed else 0
    return words, right and died == killed and twice <= most and not leaks


ENGINES = {
    "ray": (ray_data, {"requests_per_second": 100, "statuses": ([None] * 32 + [503]) * 60}),
    "spark": (spark_frames, {"requests_per_second": 100}),
    "dask": (dask_frames, {"requests_per_second": 100}),
    "daft": (daft_frames, {"requests_per_second": 3}),
    "daft-openai": (daft_openai, {"requests_per_second": 3}),
}


def main(engine: str, program: str) -> None:
    case, options = ENGINES[engine]
    with (
        tempfile.TemporaryDirectory(prefix="scale-") as folder,
        redis_server.RedisServer(program) as server,
        Service(**options, api_key="sk-nano-scale-2f6b1c") as service,
    ):
        os.environ |= {"NANOGPT_API_KEY": service.api_key, "NANOGPT_BASE_URL": service.base_url}
        print(json.dumps(case(service, server.url, folder)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
