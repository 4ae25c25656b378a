"""The index of ``nanogpt search``: exact scores, recall, and an index that is stale, damaged or cannot be made."""

import json
import sys

import numpy as np
import pytest

from nanogpt_core import Embedder
from nanogpt_core._runtime.extras import install_command
from nanogpt_core.cli import vector_index
from nanogpt_core.cli.formats.base import open_output
from nanogpt_core.cli.nearest import nearest

ROWS = 60


@pytest.fixture(autouse=True)
def _small_files_have_an_index(monkeypatch):
    monkeypatch.setattr(vector_index, "MIN_INDEXED_NUMBERS", 1)


@pytest.fixture
def faiss():
    faiss = pytest.importorskip("faiss", reason="faiss-cpu has no wheel here")
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # threads of OpenMP wait actively: on a busy machine, small work takes seconds
    yield faiss
    faiss.omp_set_num_threads(threads)


@pytest.fixture
def make_output(nanogpt, service, tmp_path, monkeypatch):
    """Return ``make_output(suffix, word)``: the name of an output in the current folder."""
    monkeypatch.chdir(tmp_path)

    def make(suffix, word="bee"):
        lines = (json.dumps({"text": f"{word} number {row} makes honey"}) + "\n" for row in range(ROWS))
        (tmp_path / "in.jsonl").write_text("".join(lines))
        made = nanogpt("embed", "in.jsonl", "-o", f"out.{suffix}", "-q", "-d", 256, "--overwrite")
        assert (made.code, bool(service.requests)) == (0, True)
        return f"out.{suffix}"

    return make


@pytest.mark.parametrize("suffix", ["parquet", "npy"])
@pytest.mark.usefixtures("faiss")
def test_search_with_an_index_prints_the_same_as_exact_search(nanogpt, make_output, tmp_path, suffix):
    output = make_output(suffix)
    index = tmp_path / f"{output}.index"
    exact = nanogpt("search", output, "bee number 17", "--exact")
    assert (exact.code, exact.err, index.exists()) == (0, "", False)
    first = nanogpt("search", output, "bee number 17")
    assert (first.code, first.out) == (0, exact.out)
    assert "Index of the vectors: sampling rows: 60 ..." in first.err
    assert f"in {index.name}\n" in first.err
    assert [path.name for path in tmp_path.glob("*.index*")] == [index.name]
    made = index.stat().st_mtime_ns
    second = nanogpt("search", output, "bee number 17")
    assert (second.out, second.err, index.stat().st_mtime_ns) == (exact.out, "", made)


@pytest.mark.usefixtures("faiss")
def test_index_of_several_additions_numbers_all_rows(tmp_path):
    rows = 10_000  # 8,192 are added at a time
    vectors = np.random.default_rng(3).normal(size=(rows, 8)).astype(np.float32)
    vectors[::5] = np.nan
    np.save(tmp_path / "out.npy", vectors)
    (tmp_path / "out.passages.jsonl").write_text("")
    reader = open_output(tmp_path / "out.npy")
    for row in (1, 8191, 8192, rows - 1):
        found, missing = vector_index.indexed_nearest(tmp_path / "out.npy", reader, vectors[row], 1)
        assert ([hit.row for hit in found], missing) == ([row], rows // 5)


@pytest.mark.usefixtures("faiss")
def test_index_finds_95_percent_of_5000_rows_neighbours_with_exact_scores(service, tmp_path):
    words = ["bee", "cat", "error", "line", "honey", "sleep", "report", "nectar", "day", "standard", "stream", "file"]
    picks = np.random.default_rng(3).integers(0, len(words), (5000, 6))
    texts = [f"{row} " + " ".join(words[word] for word in pick) for row, pick in enumerate(picks)]
    embedder = Embedder(api_key=service.api_key, base_url=service.base_url, dimensions=256)
    vectors = embedder.embed(texts)
    np.save(tmp_path / "out.npy", vectors)
    (tmp_path / "out.passages.jsonl").write_text("")
    reader = open_output(tmp_path / "out.npy")
    shared = wanted = 0
    for query in embedder.embed([f"{words[one]} {words[one - 1]} {words[one - 5]}" for one in range(len(words))]):
        exact, _ = nearest(reader.blocks(), query, 10)
        found, missing = vector_index.indexed_nearest(tmp_path / "out.npy", reader, query, 10)
        assert (len(found), missing) == (10, 0)
        cosines = vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
        assert [hit.score for hit in found] == pytest.approx([cosines[hit.row] for hit in found], abs=1e-6)
        shared += sum(hit.score >= exact[-1].score - 1e-6 for hit in found)
        wanted += len(exact)
    assert shared >= 0.95 * wanted


@pytest.mark.usefixtures("faiss")
def test_stale_index_is_made_again(nanogpt, make_output):
    nanogpt("search", make_output("parquet"), "cat number 17")
    output = make_output("parquet", "cat")
    found = nanogpt("search", output, "cat number 17")
    assert f"warning: {output}.index is damaged or out of date, and is made again.\n" in found.err
    assert found.out == nanogpt("search", output, "cat number 17", "--exact").out
    assert nanogpt("search", output, "cat number 17").err == ""


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:-100] + bytes([content[-100] ^ 1]) + content[-99:],
        lambda content: content.replace(b'"without_vector":0', b'"without_vector":1'),
        lambda content: b"[]\n" + content,
        lambda content: b'{"without_vector": 1e999}\n' + content,
    ],
    ids=["truncated", "one bit", "count", "header", "infinite count"],
)
@pytest.mark.usefixtures("faiss")
def test_damaged_index_is_made_again(nanogpt, make_output, tmp_path, damage):
    output = make_output("npy")
    first = nanogpt("search", output, "bee number 17")
    index = tmp_path / f"{output}.index"
    index.write_bytes(damage(index.read_bytes()))
    second = nanogpt("search", output, "bee number 17")
    assert (second.code, second.out) == (0, first.out)
    assert "is damaged or out of date, and is made again" in second.err
    assert nanogpt("search", output, "bee number 17").err == ""


@pytest.mark.usefixtures("faiss")
def test_index_counts_rows_without_a_vector(nanogpt, make_output, tmp_path):
    output = make_output("npy")
    vectors = np.load(tmp_path / output)
    vectors[[3, 50]], vectors[40] = np.nan, 0
    np.save(tmp_path / output, vectors)
    for count in (5, 5, ROWS):  # with a new index, and with a stored one
        found = nanogpt("search", output, "bee number 17", "-k", count, "--json")
        assert f"3 rows of {output} without a vector: not searched" in found.err
    rows = [passage["row"] for passage in json.loads(found.out)["passages"]]
    assert sorted(rows) == sorted(set(range(ROWS)) - {3, 40, 50})


@pytest.mark.usefixtures("faiss")
def test_output_without_any_vector_has_no_hits(nanogpt, make_output, tmp_path):
    output = make_output("npy")
    np.save(tmp_path / output, np.full((ROWS, 256), np.nan, dtype=np.float32))
    found = nanogpt("search", output, "bee number 17")
    assert (found.code, found.out) == (0, "")
    assert f"{ROWS} rows of {output} without a vector" in found.err


@pytest.mark.usefixtures("faiss")
def test_too_few_candidates_lead_to_the_exact_search(nanogpt, make_output, monkeypatch):
    monkeypatch.setattr(vector_index, "_SAMPLE_ROWS_PER_LIST", 10)
    monkeypatch.setattr(vector_index, "_LISTS_PER_SEARCH", 1)
    found = nanogpt("search", make_output("npy"), "bee number 17", "-k", ROWS, "--json")
    assert len(json.loads(found.out)["passages"]) == ROWS


def test_search_without_faiss_is_exact_and_names_the_extra(nanogpt, make_output, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    output = make_output("parquet")
    found = nanogpt("search", output, "bee number 17")
    assert found.out == nanogpt("search", output, "bee number 17", "--exact").out
    assert found.err == (
        f"nanogpt: warning: every vector of {output} is compared. For an index, run: {install_command('cli-index')}\n"
    )


@pytest.mark.usefixtures("faiss")
def test_search_is_exact_if_the_index_cannot_be_stored(nanogpt, make_output, tmp_path):
    output = make_output("parquet")
    (tmp_path / f"{output}.index").mkdir()
    found = nanogpt("search", output, "bee number 17")
    assert found.out == nanogpt("search", output, "bee number 17", "--exact").out
    assert (found.code, found.err.count("\n")) == (0, 1)
    assert f"every vector of {output} is compared: its index, {output}.index: " in found.err


@pytest.mark.parametrize("numbers", [ROWS * 256, ROWS * 256 + 1])
@pytest.mark.usefixtures("faiss")
def test_index_is_made_from_a_number_of_rows_times_dimensions(nanogpt, make_output, tmp_path, monkeypatch, numbers):
    monkeypatch.setattr(vector_index, "MIN_INDEXED_NUMBERS", numbers)
    found = nanogpt("search", make_output("npy"), "bee number 17")
    assert (tmp_path / "out.npy.index").exists() == bool(found.err) == (numbers == ROWS * 256)


def test_json_lines_are_searched_exactly(nanogpt, make_output, tmp_path):
    found = nanogpt("search", make_output("jsonl"), "bee number 17")
    assert (found.code, found.err, list(tmp_path.glob("*.index"))) == (0, "", [])
