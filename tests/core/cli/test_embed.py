"""``nanogpt embed`` and ``verify`` against a sandbox: formats, states, money, and bad input."""

import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import sqlite3
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from nanogpt_core import Embedder, SQLiteCache, Usage
from nanogpt_core._runtime.extras import install_command
from nanogpt_core.cache import sqlite_file
from nanogpt_core.cache.sqlite_file import folder_lock
from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.formats import numpy_array
from nanogpt_core.cli.formats.base import open_output
from nanogpt_core.cli.job import job as job_module
from nanogpt_core.cli.job import run as run_module
from nanogpt_core.cli.job.destination import publish
from nanogpt_core.cli.job.replaced import keep_vectors
from nanogpt_core.cli.job.state import State
from nanogpt_core.cli.job.vector_log import VectorLog
from nanogpt_core.cli.kept_cache import KeptCache
from nanogpt_core.cli.paths import data_files
from nanogpt_core.cli.reading import spool as spool_module
from nanogpt_core.cli.reading.passage import Passage
from nanogpt_core.cli.reading.spool import Spool
from nanogpt_core.sandbox import SERVICE_ERRORS

FORMATS = ("parquet", "npy", "jsonl")
OPTIONS = ("--dimensions", 16, "--quiet", "--requests-per-second", 1_000_000)


def records(path, texts, **more):
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def texts():
    return [f"Text number {number} of the corpus." for number in range(700)]


@pytest.fixture
def corpus(tmp_path, texts):
    return records(tmp_path / "corpus.jsonl", texts)


@pytest.fixture
def embed(nanogpt, service):
    """Return ``embed(*arguments)``: the result of ``nanogpt embed``, with the texts that were sent."""

    def call(*arguments):
        service.clear()
        result = nanogpt("embed", *arguments, *OPTIONS)
        sent = Counter(text for request in service.requests if request.status == 200 for text in request.inputs)
        return SimpleNamespace(**vars(result), sent=sent)

    return call


def stored(path):
    """Return the rows of an output, and its vectors."""
    reader = open_output(path)
    return list(reader.rows()), np.concatenate(list(reader.blocks()))


@pytest.mark.usefixtures("service")
def test_messages_about_one_text_are_in_the_singular(nanogpt, tmp_path):
    source, output = records(tmp_path / "in.jsonl", ["Hello"]), tmp_path / "out.npy"
    command = ["embed", source, "-o", output, "-d", "16"]
    first = nanogpt(*command)
    assert first.out.startswith(f"{output}: 1 row, 16 dimensions, ")
    assert "; 1 token, " in first.out
    assert "1 row. Nothing was sent." in nanogpt(*command).out
    assert nanogpt("verify", output).out == f"{output}: 1 row of 16 dimensions; as in the manifest\n"
    estimate = nanogpt("estimate", source)
    assert "1 passage\n" in estimate.out
    assert "1 passage from 1 file\n" in estimate.err


@pytest.mark.parametrize("suffix", FORMATS)
def test_output_holds_passages_and_the_vectors_of_the_embedder(embed, nanogpt, service, tmp_path, suffix):
    texts = ["Red apples.", "Größe, 你好", "Red apples.", "[bold] and \x1b[31m"]
    output = tmp_path / f"out.{suffix}"
    result = embed(records(tmp_path / "in.jsonl", texts, stars=4), "-o", output, "--keep", "stars")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"{output}: 4 rows, 16 dimensions, text-embedding-3-small; ")
    rows, vectors = stored(output)
    assert [row.text for row in rows] == texts
    assert [(row.id, row.line, row.metadata) for row in rows[:2]] == [
        (f"{tmp_path.as_posix()}/in.jsonl#1", 1, '{"stars":4}'),
        (f"{tmp_path.as_posix()}/in.jsonl#2", 2, '{"stars":4}'),
    ]
    expected = Embedder(dimensions=16, api_key=service.api_key, base_url=service.base_url).embed(texts)
    assert np.array_equal(vectors, expected)
    assert result.sent.total() == 3
    manifest = json.loads((tmp_path / f"out.{suffix}.manifest.json").read_text("utf-8"))
    wanted = {"rows": 4, "distinct_texts": 3, "dimensions": 16, "model": "text-embedding-3-small", "skipped": 0}
    assert wanted.items() <= manifest.items()
    assert manifest["tokens"] > 0
    assert manifest["usd"] == pytest.approx(manifest["tokens"] * 0.02 / 1e6)
    checked = nanogpt("verify", output)
    assert (checked.code, checked.err) == (0, "")
    assert not (tmp_path / f"out.{suffix}.unfinished").exists()


def test_parquet_has_fixed_size_lists_and_facts_in_its_metadata(embed, corpus, tmp_path):
    embed(corpus, "-o", tmp_path / "out.parquet")
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert str(schema.field("embedding").type) == "fixed_size_list<element: float not null>[16]"
    manifest = json.loads((tmp_path / "out.parquet.manifest.json").read_text("utf-8"))
    assert schema.metadata[b"nanogpt.model"] == b"text-embedding-3-small"
    assert schema.metadata[b"nanogpt.dimensions"] == b"16"
    assert schema.metadata[b"nanogpt.rows"] == b"700"
    assert schema.metadata[b"nanogpt.texts_sha256"].decode() == manifest["texts_sha256"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_repeated_texts_in_other_blocks_get_the_same_vector_and_are_sent_once(embed, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(spool_module, "ROWS_PER_BLOCK", 16)
    texts = [f"Text {number % 37}." for number in range(200)] + [f"New text {number}." for number in range(50)]
    result = embed(records(tmp_path / "in.jsonl", texts), "-o", tmp_path / f"out.{suffix}")
    assert result.code == 0
    assert result.sent == Counter(dict.fromkeys(texts, 1))
    rows, vectors = stored(tmp_path / f"out.{suffix}")
    assert [row.text for row in rows] == texts
    by_text = {text: vectors[texts.index(text)] for text in texts}
    assert all(np.array_equal(vector, by_text[text]) for text, vector in zip(texts, vectors, strict=True))


def test_hash_of_the_rows_does_not_depend_on_the_size_of_a_block(tmp_path, monkeypatch):
    hashes = set()
    for size in (1, 4, 100):
        monkeypatch.setattr(spool_module, "ROWS_PER_BLOCK", size)
        (tmp_path / str(size)).mkdir()
        with contextlib.closing(Spool(tmp_path / str(size))) as spool:
            list(spool.add_all(Passage(f"text {number}", "file", number) for number in range(10)))
            hashes.add(spool.rows_sha256)
    assert len(hashes) == 1


def test_blocks_of_long_texts_hold_fewer_passages(tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "ROWS_PER_BLOCK", 4)
    monkeypatch.setattr(spool_module, "_MAX_CHARACTERS_PER_BLOCK", 100)
    passages = [Passage(text, "in.jsonl", number) for number, text in enumerate(["short"] * 5 + ["long" * 12] * 7)]
    with contextlib.closing(Spool(tmp_path)) as spool:
        assert list(spool.add_all(passages)) == [4, 7, 10, 12]
        assert [block.passages for block in spool.blocks()] == [
            passages[:4],
            passages[4:7],
            passages[7:10],
            passages[10:],
        ]
        assert spool.first_passage(2) == passages[5]


def test_same_command_again_sends_nothing_and_another_one_is_refused(embed, corpus, tmp_path, texts):
    output = tmp_path / "out.parquet"
    embed(corpus, "-o", output)
    before = output.read_bytes()
    again = embed(corpus, "-o", output)
    assert (again.code, again.sent.total()) == (0, 0)
    assert again.out == f"{output}: complete already, 700 rows. Nothing was sent.\n"
    records(corpus, [*texts, "One more."])
    other = embed(corpus, "-o", output)
    assert (other.code, other.sent.total()) == (2, 0)
    assert "exists, with other texts" in other.err
    assert "--overwrite" in other.err
    assert output.read_bytes() == before
    assert not (tmp_path / "out.parquet.unfinished").exists()
    replaced = embed(corpus, "-o", output, "--overwrite")
    assert (replaced.code, replaced.sent) == (0, {"One more.": 1})


@pytest.mark.parametrize("suffix", ["parquet", "npy", "jsonl"])  # Lance's test has a process of its own
def test_overwrite_sends_only_texts_that_the_output_has_no_vector_of(embed, nanogpt, tmp_path, suffix):
    source, output, new = tmp_path / "in.jsonl", tmp_path / f"out.{suffix}", tmp_path / f"new.{suffix}"
    records(source, ["bees", "cats", "dogs"])
    embed(source, "-o", output)
    records(source, ["cows", "dogs", "bees", "bees"], stars=4)
    replaced = embed(source, "-o", output, "--overwrite", "--keep", "stars")
    assert (replaced.code, replaced.sent) == (0, {"cows": 1})
    embed(source, "-o", new, "--keep", "stars")
    assert [file.read_bytes() for file in data_files(output)] == [file.read_bytes() for file in data_files(new)]
    assert nanogpt("verify", output).code == 0


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (["-m", "BAAI/bge-m3"], ["-m", "jina-embeddings-v3"]),
        (["-d", "256"], []),
        (["--on-overflow", "truncate"], []),
        (["--base-url", "LOCALHOST"], []),
    ],
)
def test_overwrite_uses_no_vectors_that_may_be_others(nanogpt, service, tmp_path, first, second):
    source, output = records(tmp_path / "in.jsonl", ["bees", "cats"]), tmp_path / "out.parquet"
    localhost = service.base_url.replace("127.0.0.1", "localhost")
    first = [localhost if word == "LOCALHOST" else word for word in first]
    assert nanogpt("embed", source, "-o", output, *first).code == 0
    service.clear()
    replaced = nanogpt("embed", source, "-o", output, "--overwrite", *second)
    assert (replaced.code, "Reading out.parquet: 0 vectors can be used again" in replaced.err) == (0, True)
    assert [request.inputs for request in service.requests] == [("bees", "cats")]


def test_vectors_of_texts_that_stay_are_stored_once(embed, tmp_path):
    source, output, path = records(tmp_path / "in.jsonl", ["bees", "cats"]), tmp_path / "out.npy", tmp_path / "log"
    embed(source, "-o", output)
    embedder, sizes = Embedder(dimensions=16), []
    with contextlib.closing(Spool(tmp_path)) as spool, contextlib.closing(VectorLog(path)) as log:
        list(spool.add_all([Passage("bees", "a", 1), Passage("dogs", "a", 2)]))
        for _ in range(2):  # as after a kill
            assert keep_vectors(output, embedder, 16, spool, log) == 1
            sizes.append(path.stat().st_size)
        assert (len(log), sizes[0]) == (1, sizes[1])


@pytest.mark.parametrize("name", ["out.npy", "out.passages.jsonl", "out.npy.manifest.json"])
def test_overwrite_uses_no_vectors_of_an_output_that_is_not_as_its_manifest_says(embed, nanogpt, tmp_path, name):
    source, output = records(tmp_path / "in.jsonl", ["bees", "cats"]), tmp_path / "out.npy"
    embed(source, "-o", output)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(
        content.replace(b"cats", b"bats") if b"cats" in content else content[:-4] + b"\0\0\0?"
    )
    replaced = embed(source, "-o", output, "--overwrite")
    assert (replaced.code, replaced.sent.total()) == (0, 2)
    assert nanogpt("verify", output).code == 0


@pytest.mark.parametrize("option", [("--id-field", "stars"), ("--keep", "stars"), ("--chunk-tokens", "400")])
def test_complete_output_with_other_ids_or_metadata_is_not_called_complete(embed, texts, tmp_path, option):
    source, output = records(tmp_path / "in.jsonl", texts[:2], stars=4), tmp_path / "out.parquet"
    embed(source, "-o", output)
    again = embed(source, "-o", output, *option)
    assert (again.code, again.out, again.sent.total()) == (2, "", 0)
    assert f"{output} exists, with other IDs, places or metadata. Nothing was sent. Pass --overwrite" in again.err


def test_complete_output_with_another_treatment_of_long_texts_is_not_called_complete(embed, tmp_path):
    source, output = records(tmp_path / "in.jsonl", ["word " * 10_000]), tmp_path / "out.npy"
    embed(source, "-o", output, "--on-overflow", "truncate")
    assert embed(source, "-o", output, "--on-overflow", "truncate").code == 0
    again = embed(source, "-o", output, "--on-overflow", "split")
    assert (again.code, again.out, again.sent.total()) == (2, "", 0)
    assert f"{output} exists, with --on-overflow truncate. Nothing was sent. Pass --overwrite" in again.err


@pytest.mark.parametrize("first", ["error", "truncate"])
@pytest.mark.parametrize("second", ["error", "split"])
def test_treatment_of_long_texts_changes_no_output_without_them(embed, corpus, tmp_path, first, second):
    output = tmp_path / "out.npy"
    embed(corpus, "-o", output, "--on-overflow", first)
    again = embed(corpus, "-o", output, "--on-overflow", second)
    assert (again.code, again.sent.total()) == (0, 0)
    assert "complete already" in again.out


def test_complete_output_of_an_older_version_is_compared_without_facts_that_it_does_not_have(embed, tmp_path):
    output, manifest = tmp_path / "out.npy", tmp_path / "out.npy.manifest.json"
    source = records(tmp_path / "in.jsonl", ["word " * 10_000])
    embed(source, "-o", output, "--on-overflow", "split")
    facts = json.loads(manifest.read_text("utf-8"))
    del facts["rows_sha256"], facts["on_overflow"]
    manifest.write_text(json.dumps(facts), "utf-8")
    again = embed(source, "-o", output, "--on-overflow", "truncate", "--json")
    assert (again.code, again.sent.total()) == (0, 0)
    assert json.loads(again.out)["on_overflow"] is None


def test_manifest_of_a_later_version_may_have_more_fields(embed, corpus, tmp_path):
    output, manifest = tmp_path / "out.npy", tmp_path / "out.npy.manifest.json"
    embed(corpus, "-o", output)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text("utf-8")), "later": [1]}), "utf-8")
    again = embed(corpus, "-o", output)
    assert (again.code, again.sent.total()) == (0, 0)


def test_array_is_moved_to_its_place_after_its_passages(tmp_path):
    part, output = tmp_path / "part.npy", tmp_path / "out.npy"
    for file in (*data_files(part), *data_files(output)):
        file.write_text(file.name)
    passages = data_files(output)[1]
    passages.unlink()
    passages.mkdir()  # a file cannot take its place
    with pytest.raises(IsADirectoryError):
        publish(part, output)
    assert output.read_text() == "out.npy"
    passages.rmdir()
    publish(part, output)
    assert [file.read_text() for file in data_files(output)] == [file.name for file in data_files(part)]


@pytest.mark.parametrize("suffix", ["parquet", "npy", "jsonl"])  # Lance's test has a process of its own
def test_overwrite_replaces_an_output_of_each_format(embed, nanogpt, tmp_path, suffix):
    source, output = tmp_path / "in.jsonl", tmp_path / f"out.{suffix}"
    for word in ("bees", "cats"):
        source.write_text(json.dumps({"text": word}) + "\n")
        assert embed(source, "-o", output, "--overwrite").code == 0
        assert nanogpt("verify", output).code == 0
        assert [row.text for row in open_output(output).rows()] == [word]
    assert not (tmp_path / f"out.{suffix}.unfinished").exists()


def test_output_of_another_address_such_as_a_sandbox_is_not_called_complete(embed, service, corpus, tmp_path):
    output = tmp_path / "out.parquet"
    embed(corpus, "-o", output)
    other = embed(corpus, "-o", output, "--base-url", "http://127.0.0.1:9/v1")
    assert (other.code, other.out) == (2, "")
    assert f"exists, with the address {service.base_url}. Nothing was sent. Pass --overwrite" in other.err


def test_output_of_another_model_is_refused_with_the_name_of_its_own(embed, corpus, tmp_path):
    output = tmp_path / "out.parquet"
    embed(corpus, "-o", output)
    other = embed(corpus, "-o", output, "-m", "text-embedding-3-large")
    assert (other.code, other.sent.total()) == (2, 0)
    assert "exists, with the model text-embedding-3-small. Nothing was sent." in other.err


def test_unfinished_replacement_leaves_the_complete_output_as_it_is(embed, service, corpus, tmp_path):
    output, other_model = tmp_path / "out.parquet", ("--overwrite", "-m", "text-embedding-3-large")
    embed(corpus, "-o", output)
    before = output.read_bytes()
    service.add_faults(None, SERVICE_ERRORS["insufficient_quota"])
    failed = embed(corpus, "-o", output, *other_model)
    assert failed.code in {4, 5}
    again = embed(corpus, "-o", output)
    assert (again.code, again.sent.total(), output.read_bytes() == before) == (0, 0, True)
    assert f"{output}.unfinished is left from an unfinished run with --overwrite" in again.err
    replaced = embed(corpus, "-o", output, *other_model)
    assert (replaced.code, (failed.sent + replaced.sent).total()) == (0, 700)
    assert not (tmp_path / "out.parquet.unfinished").exists()


def test_rest_of_the_state_of_a_complete_output_is_deleted_by_the_next_run(embed, corpus, tmp_path, monkeypatch):
    output, state, unlink, seen = tmp_path / "out.npy", tmp_path / "out.npy.unfinished", Path.unlink, []

    def unlink_others(path, missing_ok=False):
        if path.name == "vectors.log":  # a kill may come now, too
            seen.append((path.parent / "usage.jsonl").exists())
            raise PermissionError(13, "Another program has it open", str(path))
        unlink(path, missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_others)
        assert embed(corpus, "-o", output).code == 0
    assert (seen, (state / "vectors.log").exists()) == ([False], True)
    again = embed(corpus, "-o", output)
    assert (again.code, again.sent.total(), again.err) == (0, 0, "")
    assert not state.exists()


def test_output_whose_manifest_a_kill_prevented_gets_it_without_overwrite(embed, corpus, tmp_path):
    output = tmp_path / "out.npy"
    embed(corpus, "-o", output)
    (tmp_path / "out.npy.manifest.json").unlink()
    state = State(output)
    state.note_usage(lambda: Usage(requests=1))
    state.close()
    assert embed(corpus, "-o", output).code == 0
    assert (tmp_path / "out.npy.manifest.json").exists()


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("out.npy", lambda path: os.truncate(path, 1000), "and is damaged"),
        ("out.npy", lambda path: np.save(path, np.load(path)[:600]), "and is damaged"),
        ("out.parquet", lambda path: os.truncate(path, 1000), "and is damaged"),
        ("out.parquet", lambda path: pq.write_table(pq.read_table(path)[:600], path), "with 600 rows of 700"),
        ("out.jsonl", lambda path: os.truncate(path, path.stat().st_size - 5), "and is damaged"),
        (
            "out.jsonl",
            lambda path: path.write_text("\n".join(path.read_text().split("\n")[:600])),
            "with 600 rows of 700",
        ),
    ],
)
def test_damaged_output_is_not_called_complete(embed, corpus, tmp_path, name, damage, words):
    embed(corpus, "-o", tmp_path / name)
    damage(tmp_path / name)
    again = embed(corpus, "-o", tmp_path / name)
    assert (again.code, again.out, again.sent.total()) == (2, "", 0)
    assert f"exists, {words}. Nothing was sent. Pass --overwrite" in again.err


def test_file_of_another_program_is_not_replaced(embed, corpus, tmp_path):
    (tmp_path / "out.parquet").write_text("mine")
    result = embed(corpus, "-o", tmp_path / "out.parquet")
    assert (result.code, result.sent.total()) == (2, 0)
    assert "no manifest" in result.err
    assert (tmp_path / "out.parquet").read_text() == "mine"


@pytest.mark.parametrize("suffix", FORMATS)
def test_failed_run_goes_on_and_pays_for_no_text_twice(embed, service, corpus, tmp_path, suffix):
    undisturbed = tmp_path / f"undisturbed.{suffix}"
    embed(corpus, "-o", undisturbed)
    output = tmp_path / f"out.{suffix}"
    service.add_faults(None, None, SERVICE_ERRORS["insufficient_quota"])
    first = embed(corpus, "-o", output)
    assert first.code in {4, 5}
    assert f"{output}.unfinished" in first.err
    assert first.err.count("\n") == 1
    assert not output.exists()
    second = embed(corpus, "-o", output)
    assert second.code == 0
    assert max((first.sent + second.sent).values()) == 1
    assert second.sent.total() < 700
    assert output.read_bytes() == undisturbed.read_bytes()
    manifest, expected = (
        json.loads((tmp_path / f"{path.name}.manifest.json").read_text()) for path in (output, undisturbed)
    )
    for name in ("rows", "tokens", "usd", "texts_sha256", "vectors_sha256"):
        assert manifest[name] == expected[name]


def test_interrupt_keeps_the_state_and_says_how_to_go_on(embed, corpus, tmp_path, monkeypatch):
    note = run_module.JobRun._show_usage

    def interrupting(self):
        note(self)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module.JobRun, "_show_usage", interrupting)
    result = embed(corpus, "-o", tmp_path / "out.parquet")
    assert result.code == 130
    assert re.search(r"At least \d+ of 700 texts are done\. The same command goes on: vectors in ", result.err)


def test_error_of_the_first_batch_keeps_the_texts_of_later_ones(
    nanogpt, corpus, texts, tmp_path, serve, faults, monkeypatch
):
    def answer(seen):
        if seen.texts[0] != texts[0]:
            return faults.good(seen)
        server.wait_for(lambda: len(server.requests) == 3 and server.in_flight == 1)
        return faults.response({"error": {"message": "empty", "code": "insufficient_balance"}}, 402)

    server = serve(answer)
    monkeypatch.setenv("NANOGPT_API_KEY", server.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", server.base_url)
    result = nanogpt("embed", corpus, "-o", tmp_path / "out.npy", *OPTIONS)
    assert result.code == 4
    assert " are done" not in result.err  # none in order
    assert "The same command goes on: vectors in " in result.err
    server.answer = faults.good
    before = len(server.requests)
    assert nanogpt("embed", corpus, "-o", tmp_path / "out.npy", *OPTIONS).code == 0
    assert sum(len(seen.texts) for seen in server.requests[before:]) == 256


def test_state_that_is_in_use_is_not_touched(embed, corpus, tmp_path):
    state = State(tmp_path / "out.parquet")
    result = embed(corpus, "-o", tmp_path / "out.parquet")
    assert (result.code, result.sent.total()) == (2, 0)
    assert "Another process is writing" in result.err
    state.close()
    assert embed(corpus, "-o", tmp_path / "out.parquet").code == 0


def test_state_that_another_process_deletes_meanwhile_is_made_again(monkeypatch, tmp_path):
    other, connect = State(tmp_path / "out.npy"), sqlite3.connect

    def connect_slowly(*arguments, **more):
        monkeypatch.undo()
        connection = connect(*arguments, **more)
        other.close()  # it has ended, and deletes its folder
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_slowly)
    state = State(tmp_path / "out.npy")
    with pytest.raises(CommandError, match="Another process"):
        State(tmp_path / "out.npy")
    state.close()
    assert list(tmp_path.iterdir()) == []


def test_output_that_another_process_finishes_meanwhile_is_not_made_again(embed, tmp_path, monkeypatch):
    source = records(tmp_path / "in.jsonl", ["text"])
    (tmp_path / "out.npy.unfinished").mkdir()  # by the other process

    def wait_for_the_other(output):
        monkeypatch.setattr(job_module, "State", State)
        assert embed(source, "-o", output).code == 0
        return State(output)

    monkeypatch.setattr(job_module, "State", wait_for_the_other)
    result = embed(source, "-o", tmp_path / "out.npy")
    assert (result.code, result.sent.total()) == (0, 1)  # the text was sent once, by the other process
    assert not (tmp_path / "out.npy.unfinished").exists()


def test_damaged_state_is_named_and_foreign_usage_is_left_out(embed, tmp_path):
    source, folder = records(tmp_path / "in.jsonl", ["text"]), tmp_path / "out.npy.unfinished"
    folder.mkdir()
    (folder / "usage.jsonl").write_bytes(b'{"other": 1}\n"text"\n[]\n\xff\n')
    (folder / "lock").write_text("no database")
    result = embed(source, "-o", tmp_path / "out.npy")
    assert (result.code, result.sent.total(), result.err.count("\n")) == (2, 0, 1)
    assert "lock is damaged (file is not a database). Delete it." in result.err
    (folder / "lock").unlink()
    assert embed(source, "-o", tmp_path / "out.npy").code == 0


def test_cache_waits_for_another_process_that_creates_a_file_in_its_folder(tmp_path, monkeypatch):
    ends = contextlib.ExitStack()
    ends.enter_context(folder_lock(tmp_path))
    monkeypatch.setattr(sqlite_file, "backoff_seconds", lambda: ends.close() or 0.0)
    cache = KeptCache(tmp_path / "vectors.sqlite")
    cache.put_many({b"a": b"1"})
    cache.close()


@pytest.mark.usefixtures("service")
def test_reader_of_the_progress_who_has_gone_does_not_end_the_run(nanogpt, tmp_path, monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    stderr = os.fdopen(writing, "w")
    monkeypatch.setattr(sys, "stderr", stderr)
    assert nanogpt("embed", records(tmp_path / "in.jsonl", ["text"]), "-o", tmp_path / "out.npy").code == 0
    with contextlib.suppress(OSError):
        stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows limits the whole path")
def test_longest_name_of_an_output_has_room_for_its_manifest(embed, tmp_path):
    source = records(tmp_path / "in.jsonl", ["text"])
    longest = "n" * (255 - len(".npy.manifest.json"))
    assert embed(source, "-o", tmp_path / f"{longest}.npy").code == 0
    result = embed(source, "-o", tmp_path / f"{longest}n.npy")
    assert (result.code, result.sent.total()) == (2, 0)


def test_full_disk_ends_the_run_before_more_money_is_spent(embed, corpus, tmp_path, monkeypatch):
    def full(self, _entries):
        self.failure = OSError(28, "No space left on device")
        raise self.failure

    monkeypatch.setattr(VectorLog, "put_many", full)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = embed(corpus, "-o", tmp_path / "out.parquet")
    assert result.code == 2
    assert "No space left on device" in result.err


def test_cache_that_cannot_be_written_ends_the_run(embed, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(SQLiteCache, "put_many", lambda *_: None)  # on a full disk it warns, and returns
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = embed(corpus, "-o", tmp_path / "out.parquet", "--cache", tmp_path / "vectors.db")
    assert result.code == 2
    assert "The cache cannot be written" in result.err
    assert " are done" not in result.err


def test_disk_without_room_is_named_before_anything_is_sent(embed, corpus, tmp_path, monkeypatch):
    free = 100_000  # 45,000 for the vectors of the output, 25,000 for its texts, and 75,000 for the log of vectors
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    refused = embed(corpus, "-o", tmp_path / "out.npy")
    assert (refused.code, refused.sent.total()) == (2, 0)
    assert "0 MiB are free, and vectors and output need 0 MiB. Nothing was sent." in refused.err
    assert embed(corpus, "-o", tmp_path / "out.npy", "--cache", tmp_path / "vectors.db").code == 0  # without a log


def test_space_of_a_part_that_an_earlier_run_wrote_counts_as_free(embed, corpus, tmp_path, monkeypatch):
    part = tmp_path / "out.npy.unfinished" / "output.npy"
    part.parent.mkdir()
    part.write_bytes(b"part of an array")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0 if part.exists() else 1_000_000))
    assert embed(corpus, "-o", tmp_path / "out.npy").code == 0


def test_error_while_the_output_is_put_into_its_place_says_how_to_go_on(embed, corpus, tmp_path, monkeypatch):
    def full(_number):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        failed = embed(corpus, "-o", tmp_path / "out.npy")
    assert (failed.code, failed.sent.total()) == (2, 700)
    assert "No space left on device. At least 700 of 700 texts are done. The same command goes on: " in failed.err
    assert embed(corpus, "-o", tmp_path / "out.npy").sent.total() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the name of an open file")
@pytest.mark.parametrize(
    ("suffix", "names"), [("npy", {"output.npy", "output.passages.jsonl"}), ("parquet", {"output.parquet"})]
)
def test_output_is_on_the_disk_before_the_vectors_are_deleted(embed, corpus, tmp_path, monkeypatch, suffix, names):
    synced = set()

    def fsync(number):
        path = Path(f"/proc/self/fd/{number}").readlink()
        synced.add((path.name, path.stat().st_size > 10_000, (path.parent / "vectors.log").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    assert embed(corpus, "-o", tmp_path / f"out.{suffix}").code == 0
    assert synced == {(name, True, True) for name in names}


def test_passages_that_do_not_fit_on_the_disk_are_one_line(embed, corpus, tmp_path, monkeypatch):
    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(Spool, "_add", full)
    result = embed(corpus, "-o", tmp_path / "out.parquet")
    assert (result.code, result.sent.total()) == (2, 0)
    assert result.err.endswith("out.parquet.unfinished: The passages cannot be stored (database or disk is full).\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_disk_that_is_full_when_passages_are_written_is_named_with_its_folder(embed, corpus, tmp_path):
    folder = tmp_path / "out.parquet.unfinished"
    folder.mkdir()
    (folder / "passages.jsonl").symlink_to("/dev/full")
    result = embed(corpus, "-o", tmp_path / "out.parquet")
    assert (result.code, result.sent.total()) == (2, 0)
    assert result.err.endswith(f"{folder}: The passages cannot be stored (No space left on device).\n")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a name")
def test_output_whose_name_is_not_utf_8_is_refused(embed, corpus, tmp_path):
    result = embed(corpus, "-o", tmp_path / os.fsdecode(b"caf\xe9.parquet"))
    assert (result.code, result.sent.total()) == (2, 0)
    assert "caf\\xe9.parquet: Arrow and SQLite take only paths in UTF-8." in result.err


def test_place_of_a_text_that_the_service_names_is_shown(nanogpt, serve, faults, corpus, texts, tmp_path, monkeypatch):
    def refuse(seen):
        if texts[300] not in seen.texts:
            return faults.good(seen)
        return faults.response({"error": {"message": f"input[{seen.texts.index(texts[300])}] is invalid"}}, 400)

    monkeypatch.setenv("NANOGPT_API_KEY", "key")
    monkeypatch.setenv("NANOGPT_BASE_URL", serve(refuse).base_url)
    result = nanogpt("embed", corpus, "-o", tmp_path / "out.npy", *OPTIONS)
    assert result.code == 5
    assert f"First text concerned: {corpus.as_posix()}:301. " in result.err


def test_error_that_no_text_has_caused_names_no_text(embed, corpus, tmp_path):
    result = embed(corpus, "-o", tmp_path / "out.parquet", "--base-url", "http://127.0.0.1:9/v1")
    assert result.code == 5
    assert "First text concerned" not in result.err


def test_output_that_cannot_be_written_ends_the_run_and_keeps_the_vectors(embed, corpus, tmp_path, monkeypatch):
    def full(_path, _facts, _blocks):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(numpy_array, "write", full)
        failed = embed(corpus, "-o", tmp_path / "out.npy")
    assert failed.code == 2
    assert "No space left on device" in failed.err
    assert failed.err.count("\n") == 1
    assert embed(corpus, "-o", tmp_path / "out.npy").sent.total() + failed.sent.total() == 700


def test_missing_package_of_a_format_is_named_before_anything_is_sent(embed, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    result = embed(corpus, "-o", tmp_path / "out.lance")
    assert (result.code, result.sent.total()) == (2, 0)
    assert install_command("lance") in result.err


def test_cache_is_kept_and_serves_other_outputs(embed, corpus, tmp_path):
    cache = tmp_path / "vectors.db"
    assert embed(corpus, "-o", tmp_path / "a.parquet", "--cache", cache).sent.total() == 700
    assert embed(corpus, "-o", tmp_path / "b.npy", "--cache", cache).sent.total() == 0
    assert np.array_equal(stored(tmp_path / "a.parquet")[1], stored(tmp_path / "b.npy")[1])


@pytest.mark.parametrize("damage", [b"\0" * 200, bytes(range(256)) * 40], ids=["header", "pages"])
def test_damaged_cache_is_set_aside_and_the_run_goes_on(embed, tmp_path, damage):
    source, cache = records(tmp_path / "in.jsonl", ["text"]), tmp_path / "vectors.db"
    embed(source, "-o", tmp_path / "a.npy", "--cache", cache)
    content = bytearray(cache.read_bytes())
    content[16 : 16 + len(damage)] = damage
    cache.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = embed(source, "-o", tmp_path / "b.npy", "--cache", cache)
    assert (result.code, result.sent.total()) == (0, 1)
    assert embed(source, "-o", tmp_path / "c.npy", "--cache", cache).sent.total() == 0


@pytest.mark.parametrize("schema", ["CREATE TABLE others (text)", "CREATE TABLE nanogpt_entries (key BLOB)"])
def test_cache_without_its_table_or_a_column_is_set_aside_and_the_run_goes_on(embed, tmp_path, schema):
    source, cache = records(tmp_path / "in.jsonl", ["text"]), tmp_path / "vectors.db"
    embed(source, "-o", tmp_path / "a.npy", "--cache", cache)
    with contextlib.closing(sqlite3.connect(cache)) as database:
        database.execute("DROP TABLE nanogpt_entries")
        database.execute(schema)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        result = embed(source, "-o", tmp_path / "b.npy", "--cache", cache)
    assert (result.code, result.sent.total()) == (0, 1)
    assert "It was set aside as vectors.db.corrupt-" in result.err
    assert embed(source, "-o", tmp_path / "c.npy", "--cache", cache).sent.total() == 0


def test_cache_takes_over_the_vectors_of_an_interrupted_run_without_one(embed, service, corpus, tmp_path):
    cache = tmp_path / "vectors.db"
    service.add_faults(None, None, SERVICE_ERRORS["insufficient_quota"])
    first = embed(corpus, "-o", tmp_path / "out.npy")
    assert first.code in {4, 5}
    second = embed(corpus, "-o", tmp_path / "out.npy", "--cache", cache)
    assert (second.code, first.sent.total() > 0) == (0, True)
    assert max((first.sent + second.sent).values()) == 1
    assert embed(corpus, "-o", tmp_path / "other.npy", "--cache", cache).sent.total() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--budget", "0.00001"], 6, "more than --budget allows"),
        (["--budget", "0"], 2, "--budget"),
        (["--budget", "nan"], 2, "for --budget. It must be above 0 and finite."),
        (["--ask-above", "0.00001"], 6, "Pass --yes"),
        (["--ask-above", "nan"], 2, "It must be at least 0"),
        (["--ask-above", "0.00001", "--yes"], 0, ""),
        (["--budget", "1"], 0, ""),
        (["--model", "unknown/model", "--yes"], 4, "unknown/model"),
        (["--model", "text-embedding-ada-002"], 2, "dimensions"),
    ],
)
def test_money_is_spent_only_as_allowed(embed, corpus, tmp_path, arguments, code, words):
    result = embed(corpus, "-o", tmp_path / "out.parquet", *arguments)
    assert result.code == code
    assert words in result.err
    assert (result.sent.total() == 700) is (code == 0)
    assert (tmp_path / "out.parquet").exists() is (code == 0)
    assert not (tmp_path / "out.parquet.unfinished").exists()


def test_budget_counts_earlier_runs(embed, corpus, tmp_path):
    state = State(tmp_path / "out.parquet")
    state.note_usage(lambda: Usage(requests=1, prompt_tokens=45_000, cost_usd=0.9, texts_sent=5))
    state.close()
    result = embed(corpus, "-o", tmp_path / "out.parquet", "--budget", "0.9")
    assert (result.code, result.sent.total()) == (6, 0)
    assert "used up" in result.err
    assert embed(corpus, "-o", tmp_path / "out.parquet", "--budget", "2").code == 0
    assert json.loads((tmp_path / "out.parquet.manifest.json").read_text())["usd"] > 0.9


def test_usage_is_noted_as_soon_as_a_request_has_ended(nanogpt, serve, faults, corpus, texts, tmp_path, monkeypatch):
    notes = tmp_path / "out.npy.unfinished" / "usage.jsonl"

    def answer(seen):
        if texts[0] in seen.texts:  # no batch is handed out before it
            until = time.monotonic() + 60
            while not notes.read_bytes() or json.loads(notes.read_text().splitlines()[-1])["texts_sent"] < 700 - 256:
                assert time.monotonic() < until, "the other requests were not noted"
                time.sleep(0.01)
        return faults.good(seen)

    server = serve(answer)
    monkeypatch.setenv("NANOGPT_API_KEY", "key")
    monkeypatch.setenv("NANOGPT_BASE_URL", server.base_url)
    assert nanogpt("embed", corpus, "-o", tmp_path / "out.npy", *OPTIONS).code == 0
    assert sorted(len(seen.texts) for seen in server.requests) == [188, 256, 256]


@pytest.mark.parametrize(
    ("keys", "options", "words"),
    [
        (["a", "b", "a", "a"], ["--id-field", "key"], "2 rows have the ID of an earlier row"),
        (["a", "b", "b"], ["--id-field", "key"], "1 row has the ID of an earlier row"),
        (["a", "b", "c"], ["--id-field", "key"], ""),
        (["a", "a"], [], ""),
    ],
)
def test_repeated_ids_give_a_warning_with_their_number(embed, tmp_path, keys, options, words):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"text": f"Text {n}", "key": key}) + "\n" for n, key in enumerate(keys)))
    result = embed(source, "-o", tmp_path / "out.npy", *options)
    assert (result.code, words in result.err, bool(result.err)) == (0, True, bool(words))
    assert len(stored(tmp_path / "out.npy")[0]) == len(keys)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_to_folders_are_left_out_with_a_note(embed, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("Text.")
    for name in ("one", "two"):
        (folder / name).symlink_to(tmp_path)
    result = embed(folder, "-o", tmp_path / "out.npy")
    assert (result.code, result.err) == (0, "nanogpt: warning: Left out in folders: 2 links to folders.\n")


BAD = ['{"text": "good"}', '{"text": "broken', '{"title": "x"}', '{"text": ""}', '{"text": "also good"}']


def test_bad_input_is_named_by_line_and_nothing_is_sent(embed, tmp_path):
    (tmp_path / "bad.jsonl").write_text("\n".join(BAD))
    result = embed(tmp_path / "bad.jsonl", "-o", tmp_path / "out.parquet")
    assert (result.code, result.sent.total()) == (3, 0)
    lines = result.err.splitlines()
    places = [line.removeprefix(f"nanogpt: {tmp_path.as_posix()}/").partition(": ")[0] for line in lines]
    assert places[:3] == ["bad.jsonl:2", "bad.jsonl:3", "bad.jsonl:4"]
    assert lines[3].startswith("nanogpt: 3 parts of the input cannot be embedded. Nothing was sent.")
    assert not (tmp_path / "out.parquet.unfinished").exists()


def test_skip_bad_leaves_it_out_and_counts_it(embed, tmp_path):
    (tmp_path / "bad.jsonl").write_text("\n".join(BAD))
    result = embed(tmp_path / "bad.jsonl", "-o", tmp_path / "out.parquet", "--skip-bad")
    assert (result.code, result.sent.total()) == (0, 2)
    assert "3 parts of the input left out" in result.err
    manifest = json.loads((tmp_path / "out.parquet.manifest.json").read_text())
    assert (manifest["rows"], manifest["skipped"], len(manifest["problems"])) == (2, 3, 3)
    assert [row.line for row in stored(tmp_path / "out.parquet")[0]] == [1, 5]


def test_empty_file_of_a_folder_is_left_out_with_a_note_and_one_that_is_named_is_an_error(embed, tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    for name, text in (("a.md", "text"), ("empty.md", ""), ("blank.txt", " \n"), ("none.jsonl", "")):
        (folder / name).write_text(text)
    result = embed(folder, "-o", tmp_path / "out.parquet")
    assert (result.code, result.sent.total()) == (0, 1)
    assert "Left out in folders: 3 files without text." in result.err
    assert json.loads((tmp_path / "out.parquet.manifest.json").read_text())["skipped"] == 0
    named = embed(folder / "a.md", folder / "empty.md", "-o", tmp_path / "named.parquet")
    assert (named.code, named.sent.total()) == (3, 0)
    assert "empty.md: holds no text" in named.err


def test_too_long_text_is_named_before_anything_is_sent_unless_it_may_be_cut(embed, tmp_path):
    path = records(tmp_path / "long.jsonl", ["short", "many words " * 6000])
    result = embed(path, "-o", tmp_path / "out.parquet")
    assert (result.code, result.sent.total()) == (3, 0)
    assert "long.jsonl:2: has 12,0" in result.err
    cut = embed(path, "-o", tmp_path / "out.parquet", "--on-overflow", "truncate")
    assert (cut.code, cut.sent.total()) == (0, 2)


@pytest.mark.parametrize(
    ("option", "without", "with_effect"),
    [
        ("--include=*", "a.txt", "texts"),
        ("--format=text", "texts", "a.log"),
        ("--encoding=latin-1", "r.jsonl", "a.txt"),
        ("--field=body", "a.txt", "r.jsonl"),
        ("--id-field=id", "a.txt", "r.jsonl"),
        ("--keep=id", "a.txt", "r.jsonl"),
        ("--chunk-overlap=8", "r.jsonl", "a.txt"),
    ],
)
def test_option_without_an_effect_on_the_input_is_refused(embed, tmp_path, monkeypatch, option, without, with_effect):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    for name in ("a.txt", "a.log", "texts/b.txt"):
        (tmp_path / name).write_text("Bees make honey.\n")
    (tmp_path / "r.jsonl").write_text('{"id": "1", "text": "Bees", "body": "Bees make honey."}\n')
    refused = embed(without, "-o", "out.parquet", option)
    assert (refused.code, refused.sent.total()) == (2, 0)
    assert f"nanogpt: {option.partition('=')[0]} has no effect: " in refused.err
    assert embed(without, with_effect, "-o", "out.parquet", option).code == 0  # on a part of the input


def test_folder_need_not_hold_files_of_the_kinds_that_options_are_for(embed, tmp_path):
    options = "--include=* --format=text --encoding=latin-1 --field=body --id-field=id --keep=id --chunk-overlap=8"
    for folder, name, content in (("texts", "a.md", "Bees"), ("tables", "r.jsonl", '{"id": 1, "body": "Bees"}')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
        assert embed(tmp_path / folder, "-o", tmp_path / f"{folder}.parquet", *options.split()).code == 0
    refused = embed(tmp_path / "tables", "-o", tmp_path / "out.parquet", *options.split(), "--keep=stars")
    assert (refused.code, "--keep stars has no effect: no record has this field." in refused.err) == (2, True)


def test_json_with_the_encoding_of_a_byte_order_mark_is_read(embed, tmp_path):
    source = records(tmp_path / "r.jsonl", ["Bees"])
    assert embed(source, "-o", tmp_path / "out.parquet", "--encoding", "UTF-8-sig").code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "no input"),
        (["gone.txt"], 2, "gone.txt: There is no such file or folder."),
        (["empty"], 3, "empty: the folder holds no file of a known format"),
        (["in.jsonl", "--keep", "stras"], 2, "--keep stras has no effect: no record has this field. Nothing was sent."),
        (["in.jsonl", "-o", "out.csv"], 2, ".parquet, .npy, .jsonl, .lance"),
        (["in.jsonl", "-o", "in.jsonl", "--overwrite"], 2, "is an input"),
        (["in.jsonl", "-o", "gone/out.parquet"], 2, "gone: There is no such folder."),
        (["in.jsonl", "-o", "folder.npy", "--overwrite"], 2, "folder.npy is a folder."),
        (["in.jsonl", "-o", "out.npy"], 2, "out.npy.manifest.json is a folder."),
        (["in.jsonl", "-o", "array.npy", "--overwrite"], 2, "array.passages.jsonl is a folder."),
        (["in.jsonl", "--cache", "in.jsonl/vectors.db"], 2, "in.jsonl"),
        (["in.jsonl", "--cache", "in.jsonl"], 2, "in.jsonl is no cache"),
        (["in.jsonl", "--cache", "other.db"], 2, "other.db is no cache: it is another program's database"),
        (["in.jsonl", "--cache", "out.parquet"], 2, "out.parquet is a file of the output, and would be lost."),
        (["in.jsonl", "--cache", "out.parquet.unfinished/vectors.db"], 2, "is a file of the output"),
        (
            ["in.passages.jsonl", "-o", "in.npy", "--overwrite"],
            2,
            "in.passages.jsonl is an input, and the output would replace it.",
        ),
        (["in.jsonl", "-o", "other.npy"], 2, "other.passages.jsonl exists, and has no manifest."),
        (["circle.txt"], 2, "circle.txt: There is no such file"),
        (["in.jsonl", "-o", "circle.jsonl", "--budget", "0.000000001"], 6, "--budget"),
    ],
)
def test_wrong_command_is_refused_with_the_reason(embed, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "folder.npy", "out.npy.manifest.json", "array.passages.jsonl"):
        (tmp_path / name).mkdir()
    for name in ("in.jsonl", "in.passages.jsonl", "other.passages.jsonl"):
        records(tmp_path / name, ["text"])
    if sys.platform != "win32":
        for name in ("circle.txt", "circle.jsonl"):
            (tmp_path / name).symlink_to(name)
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as database:
        database.execute("CREATE TABLE vectors (text)")
    before = (tmp_path / "in.jsonl").read_bytes()
    output = [] if "-o" in arguments else ["-o", "out.parquet"]
    result = embed(*arguments, *output)
    assert (result.code, result.sent.total()) == (code, 0)
    assert words in result.err
    assert (tmp_path / "in.jsonl").read_bytes() == before


def test_missing_key_is_named_before_anything_is_read(nanogpt, tmp_path):
    result = nanogpt("embed", tmp_path / "gone", "-o", tmp_path / "out.parquet")
    assert result.code == 2
    assert "NANOGPT_API_KEY" in result.err


def test_standard_input_is_read_once_as_lines_of_json_or_as_text(embed, tmp_path, monkeypatch):
    for content, ids in (('{"text": "a"}\n{"text": "b"}\n', ["<stdin>#1", "<stdin>#2"]), ("A text.\n", ["<stdin>#1"])):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content.encode()))))
        output = tmp_path / f"{len(ids)}.jsonl"
        assert embed("-", "-o", output).code == 0
        assert [row.id for row in stored(output)[0]] == ids


def test_json_is_the_manifest(embed, corpus, tmp_path):
    result = embed(corpus, "-o", tmp_path / "out.npy", "--json")
    assert json.loads(result.out) == json.loads((tmp_path / "out.npy.manifest.json").read_text())


@pytest.mark.usefixtures("service")
def test_progress_without_a_terminal_is_lines_on_standard_error(nanogpt, corpus, tmp_path):
    result = nanogpt("embed", corpus, "-o", tmp_path / "out.npy", "-d", 16)
    lines = result.err.splitlines()
    assert lines[0] == "Reading ..."
    assert lines[1] == "Reading: 700 passages from 1 file"
    assert lines[2] == "Embedding: 700 ..."
    assert lines[-1] == "Embedding: 700 texts"


@pytest.mark.parametrize("suffix", FORMATS)
def test_verify_names_rows_without_a_vector_and_changed_texts(embed, nanogpt, tmp_path, suffix):
    output = tmp_path / f"out.{suffix}"
    embed(records(tmp_path / "in.jsonl", ["one", "two", "three"]), "-o", output)
    if suffix == "npy":
        array = np.load(output)
        array[1] = 0
        np.save(output, array)
        passages = tmp_path / "out.passages.jsonl"
        passages.write_text(passages.read_text().replace('"three"', '"four"'))
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
        rows[1]["embedding"], rows[2]["text"] = None, "four"
        output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow as pa

        if suffix == "parquet" and int(pa.__version__.split(".")[0]) < 26:
            pytest.skip("pyarrow before 26 cannot read Parquet files in which a vector of fixed size is missing")
        table = pq.read_table(output)
        vectors = pa.array(
            [row if number != 1 else None for number, row in enumerate(table["embedding"].to_pylist())],
            pa.list_(pa.float32(), 16),
        )
        table = table.set_column(6, "embedding", vectors).set_column(4, "text", pa.array(["one", "two", "four"]))
        pq.write_table(table, output)
    result = nanogpt("verify", output)
    assert result.code == 1
    assert f"row 1 has no vector ({tmp_path.as_posix()}/in.jsonl:2)" in result.err
    assert "the texts are not those of the manifest" in result.err
    found = json.loads(nanogpt("verify", output, "--json").out)
    assert (found["ok"], [row["row"] for row in found["without_vector"]]) == (False, [1])


def test_verify_notices_changed_vectors_and_a_missing_manifest(embed, nanogpt, corpus, tmp_path):
    output = tmp_path / "out.npy"
    embed(corpus, "-o", output)
    assert nanogpt("verify", output).code == 0
    array = np.load(output)
    array[5] *= -1
    np.save(output, array)
    assert "the vectors are not those of the manifest" in nanogpt("verify", output).err
    (tmp_path / "out.npy.manifest.json").unlink()
    result = nanogpt("verify", output)
    assert (result.code, "manifest is missing" in result.err) == (1, True)


def test_verify_refuses_other_files(nanogpt, tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    assert nanogpt("verify", tmp_path / "a.parquet").code == 3
    assert "There is no such file" in nanogpt("verify", tmp_path / "gone.npy").err
