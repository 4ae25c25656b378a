"""Kills of ``nanogpt embed`` and ``compare``: the result is the same, and only texts in flight are paid for twice."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest

from length import usual_or_long
from nanogpt_core import Sandbox
from nanogpt_core.cache.base import CacheNamespace
from nanogpt_core.cache.sqlite import SQLiteCache
from nanogpt_core.cli.job.vector_log import VectorLog

pytestmark = pytest.mark.xdist_group("processes")  # kills and starts processes: never beside each other

KILLS = usual_or_long(2, 10)
MODEL, DIMENSIONS, BATCH, CONCURRENCY = "Qwen/Qwen3-Embedding-0.6B", 32, 32, 16
TEXTS = 1600
ALL_TEXTS = [f"Text number {number}." for number in range(TEXTS)]


@pytest.fixture
def server():
    # Latency, and so requests in flight when the process is killed.
    with Sandbox(latency=0.05) as sandbox:
        yield sandbox


@pytest.fixture
def words(tmp_path):
    """Return ``words(output)``: the arguments of a run."""
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in ALL_TEXTS))

    def words(output):
        given = ["embed", corpus, "-o", output, "-m", MODEL, "-d", DIMENSIONS, "--requests-per-second", 1_000_000, "-y"]
        return list(map(str, given))

    return words


@pytest.fixture
def start(server):
    """Return ``start(words)``, which starts a command as a process."""
    environment = {**os.environ, "NANOGPT_API_KEY": server.api_key, "NANOGPT_BASE_URL": server.base_url}

    def start(words, **more):
        command = [sys.executable, "-m", "nanogpt_core.cli", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)

    return start


@pytest.fixture
def finish(server, nanogpt, monkeypatch):
    """Return ``finish(words)``, which runs a command to its end in this process."""
    monkeypatch.setenv("NANOGPT_API_KEY", server.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", server.base_url)

    def finish(words):
        result = nanogpt(*words)
        assert result.code == 0, result.err

    return finish


def sent(server):
    return Counter(text for request in server.requests if request.status == 200 for text in request.inputs)


def wait_for_requests(server, process, count):
    """Wait until so many requests were answered, or the process has ended."""
    tick = threading.Event()
    while len(server.requests) < count and process.poll() is None:
        tick.wait(0.002)


def stored(output, server):
    """Return the texts whose vectors the state of an output holds."""
    log = VectorLog(output.with_name(f"{output.name}.unfinished") / "vectors.log")
    return held(log, server, DIMENSIONS)


def held(cache, server, dimensions):
    """Return the texts whose vectors a cache holds, and close it."""
    keys = CacheNamespace(server.base_url, MODEL, dimensions).keys(ALL_TEXTS)
    found = cache.get_many(keys)
    cache.close()
    return {text for text, key in zip(ALL_TEXTS, keys, strict=True) if key in found}


def test_killed_runs_end_in_the_same_file_and_pay_only_for_texts_in_flight_again(
    server, words, start, finish, tmp_path
):
    undisturbed, output = tmp_path / "undisturbed.parquet", tmp_path / "out.parquet"
    finish(words(undisturbed))
    total, kept = Counter(), set()
    for _ in range(KILLS):
        server.clear()
        process = start(words(output))
        left = -(-(TEXTS - len(kept)) // BATCH)
        wait_for_requests(server, process, random.randint(0, max(1, left // 2)))
        process.kill()
        process.communicate()
        if output.exists():
            break
        assert not kept & set(sent(server))
        total += sent(server)
        if output.with_name("out.parquet.unfinished").exists():
            kept = stored(output, server)
        assert len(sent(server).keys() - kept) <= CONCURRENCY * BATCH
    server.clear()
    finish(words(output))
    assert not kept & set(sent(server))
    total += sent(server)
    assert set(total) == set(ALL_TEXTS)
    assert output.read_bytes() == undisturbed.read_bytes()
    assert not output.with_name("out.parquet.unfinished").exists()
    manifest, expected = (
        json.loads(path.with_name(f"{path.name}.manifest.json").read_text()) for path in (output, undisturbed)
    )
    assert manifest["vectors_sha256"] == expected["vectors_sha256"]


def test_killed_comparison_pays_only_for_texts_in_flight_again(server, start, finish, tmp_path):
    pytest.importorskip("ir_measures", reason="the compare extra is not installed")
    pytest.importorskip("matplotlib", reason="the compare extra is not installed")
    questions, corpus, output = tmp_path / "questions.jsonl", tmp_path / "passages.jsonl", tmp_path / "out"
    questions.write_text('{"question": "Which text has the number 7?", "sources": ["Text number 7."]}\n')
    texts = ALL_TEXTS[: 2 * CONCURRENCY * BATCH]
    corpus.write_text("".join(json.dumps({"text": text, "source": text}) + "\n" for text in texts))
    words = ["compare", str(questions), str(corpus), "-m", MODEL, "--no-reduced", "--no-instructions"]
    words += ["-o", str(output), "--yes"]
    process = start(words)
    wait_for_requests(server, process, CONCURRENCY + 2)  # the question, and a batch that began after another had ended
    process.kill()
    process.communicate()
    if process.returncode == 0:
        pytest.skip("The run was complete before the kill.")
    first, kept = set(sent(server)), held(SQLiteCache(output / "vectors.sqlite"), server, None)
    assert kept
    server.clear()
    finish(words)
    assert not kept & set(sent(server))
    assert first | set(sent(server)) >= set(texts)
    assert (output / "report.html").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_interrupt_of_a_process_is_code_130_and_one_line(server, words, start, finish, tmp_path):
    output = tmp_path / "out.npy"
    process = start(words(output))
    wait_for_requests(server, process, 20)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=300)
    if process.returncode == 0:
        pytest.skip("The run was complete before the signal arrived.")
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert err.splitlines()[-1].startswith(b"nanogpt: Interrupted."), err
    server.clear()
    kept = stored(output, server)
    finish(words(output))
    assert not kept & set(sent(server))


def test_first_line_of_progress_comes_before_any_request(server, words, start, tmp_path):
    # The input has no end, so that no request can follow.
    command = ["-" if word.endswith("corpus.jsonl") else word for word in words(tmp_path / "out.npy")]
    process = start(command, stdin=subprocess.PIPE)
    assert process.stderr.readline() == b"Reading ...\n"
    assert server.requests == []
    process.terminate()
    _, err = process.communicate(timeout=300)
    if sys.platform != "win32":  # there, it is a kill
        assert process.returncode == 130
        assert b"Traceback" not in err


def test_output_into_a_closed_pipe_is_code_141_without_a_traceback():
    command = [sys.executable, "-m", "nanogpt_core.cli", "models"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(timeout=300)
    assert (process.returncode, err) == (141, b"")
