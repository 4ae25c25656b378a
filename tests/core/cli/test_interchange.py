"""The snippets of ``docs/cli/embed.md``: other programs open an output, and vector stores exchange vectors with it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import fresh_process
from nanogpt_core.cli.formats.base import open_output

PAGE = Path(__file__).parents[3] / "docs" / "cli" / "embed.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
TEXTS = [f"Error number {number} is reported in one line." for number in range(30)]


@pytest.fixture
def folder(nanogpt, service, tmp_path, monkeypatch):
    """The current folder, with outputs of ``nanogpt embed``."""
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    for output in ("docs.parquet", "docs.npy"):
        assert nanogpt("embed", "in.jsonl", "-o", output, "-q").code == 0
    service.clear()
    return tmp_path


def snippet(word):
    """Return the snippet of the page that holds ``word``."""
    return next(code for code in SNIPPETS if word in code)


@pytest.mark.usefixtures("folder")
def test_output_opens_in_pandas_polars_arrow_duckdb_and_numpy():
    # In a process of its own: polars and duckdb start threads, and other tests fork.
    check = """
expected = np.asarray(vectors)
assert (np.stack(frame.embedding) == expected).all()
assert frame_too["embedding"].dtype == pl.Array(pl.Float32, 1536)
assert (frame_too["embedding"].to_numpy() == expected).all()
assert (table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, 1536) == expected).all()
assert [text for _, text in texts] == frame.text.tolist() == frame_too["text"].to_list()
kept = duckdb.sql("SELECT embedding FROM 'docs.parquet'").fetchall()
assert (np.array([row for (row,) in kept], dtype=np.float32) == expected).all()
"""
    code = snippet("import duckdb") + check
    done = fresh_process.run(code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("folder")
def test_langchain_loads_an_output_and_only_the_question_is_sent(service):
    pytest.importorskip("langchain_community", reason="the frameworks are not installed")
    names = {}
    exec(snippet("FAISS"), names)
    assert len(names["found"]) == 3
    assert all(document.page_content in TEXTS for document in names["found"])
    assert [request.inputs for request in service.requests] == [("How are errors reported?",)]


def test_langchain_store_becomes_a_file(folder):
    pytest.importorskip("langchain_chroma", reason="the frameworks are not installed")
    from langchain_chroma import Chroma

    from langchain_nanogpt import NanoGPTEmbeddings

    Chroma.from_texts(TEXTS, NanoGPTEmbeddings(), ids=[str(number) for number in range(30)], persist_directory="chroma")
    exec(snippet("Chroma"), {})
    check_file(folder / "store.parquet", [str(number) for number in range(30)])


def test_llama_index_loads_an_output_and_its_index_becomes_a_file(folder, service):
    pytest.importorskip("llama_index_nanogpt", reason="the frameworks are not installed", exc_type=ImportError)
    names = {}
    exec(snippet("TextNode"), names)
    assert service.requests == []
    found = names["index"].as_retriever(similarity_top_k=1).retrieve(TEXTS[7])
    assert found[0].text == TEXTS[7]
    exec(snippet("index.docstore"), names)
    check_file(folder / "store.parquet", [f"in.jsonl#{number}" for number in range(1, 31)])


def check_file(path, ids):
    reader = open_output(path)
    rows = {row.id: row.text for row in reader.rows()}
    assert rows == dict(zip(ids, TEXTS, strict=True))
    expected = dict(zip(TEXTS, np.load("docs.npy"), strict=True))
    vectors = np.concatenate(list(reader.blocks()))
    for text, vector in zip((row.text for row in reader.rows()), vectors, strict=True):
        assert np.allclose(vector, expected[text], atol=1e-6)


@pytest.mark.usefixtures("folder")
def test_lance_dataset_holds_the_same_rows_and_can_be_replaced():
    # In a process of its own: Lance starts threads, and other tests fork.
    code = """
import lance, numpy as np
from pathlib import Path
from nanogpt_core.cli.entry import run
from nanogpt_core.cli.formats.base import open_output
passages = Path("in.jsonl").read_text()
for lines in (passages.splitlines()[0], passages):
    Path("in.jsonl").write_text(lines)
    assert run(["embed", "in.jsonl", "-o", "docs.lance", "-q", "--overwrite"]) == 0
assert not Path("docs.lance.unfinished").exists()
assert run(["verify", "docs.lance"]) == 0
reader = open_output(Path("docs.lance"))
assert (np.concatenate(list(reader.blocks())) == np.load("docs.npy")).all()
assert [row.id for row in reader.rows([3, 7])] == ["in.jsonl#4", "in.jsonl#8"]
assert lance.dataset("docs.lance").count_rows() == 30
assert reader.facts.model == "text-embedding-3-small"
import pyarrow as pa
lance.write_dataset(pa.table({"a": [1]}), "other.lance")
Path("empty.lance").mkdir()
assert run(["verify", "other.lance"]) == run(["verify", "empty.lance"]) == 3
[file] = Path("docs.lance/_versions").glob("*.manifest")
content = file.read_bytes()
for damaged in (content.replace(b"fixed_size_list", b"fixed_siz%_list"), content[10:]):
    file.write_bytes(damaged)
    assert run(["verify", "docs.lance"]) == 3
"""
    done = fresh_process.run(code)
    first, second, *others = done.stderr.splitlines()  # among the others are those of panics in Rust
    assert (done.returncode, first[:49]) == (0, "nanogpt: other.lance was not written by nanogpt e")
    assert second.startswith("nanogpt: empty.lance cannot be read (")
    assert sum(line.startswith("nanogpt: docs.lance cannot be read (Lance failed: ") for line in others) == 2
