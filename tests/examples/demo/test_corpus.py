"""Corpus and questions of the demo: their format, and retrieval with the sandbox's vectors."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pytest

import fresh_process
import nanogpt_core

pytestmark = pytest.mark.xdist_group("corpus")  # one reading of the corpus for all

EXAMPLES = Path(__file__).parents[3] / "examples" / "demo"
WANTED_HITS = 24
TOP = 5
PRINT_DIGEST = """
import hashlib, sys
import corpus
print(hashlib.sha256(repr(corpus.load_passages()).encode()).hexdigest())
print(sorted({"antigravity", "this", "tkinter", "turtle", "idlelib", "webbrowser", "unittest"} & set(sys.modules)))
"""


@pytest.fixture
def corpus(corpus_module):
    return corpus_module


@pytest.fixture(scope="module")
def passages(corpus_passages):
    return corpus_passages


@pytest.fixture(scope="module")
def questions():
    lines = (EXAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def answers(source, wanted):
    """Return True if the source of a passage is a wanted source or a numbered part of it."""
    return any(source == name or source.startswith(f"{name} (part ") for name in wanted)


def test_corpus_has_3000_to_8000_passages(passages):
    assert 3000 < len(passages) < 8000


@pytest.mark.parametrize("max_chars", [200, 333, 1200])
def test_passages_keep_max_chars_and_are_not_blank(corpus, max_chars):
    texts = [passage.text for passage in corpus.load_passages(max_chars)]
    assert max(map(len, texts)) <= max_chars
    assert all(text.partition(": ")[2].strip() for text in texts)


def test_max_chars_below_200_is_refused(corpus):
    with pytest.raises(ValueError, match="at least 200"):
        corpus.load_passages(199)


def test_texts_and_sources_are_unique(passages):
    assert len({passage.text for passage in passages}) == len(passages)
    assert len({passage.source for passage in passages}) == len(passages)


def test_passage_begins_with_the_name_of_its_source(passages):
    for passage in passages:
        name = re.sub(r" \(part \d+\)$", "", passage.source)
        assert passage.text.startswith(f"{name}: ")


def test_texts_are_valid_unicode_without_control_characters(passages):
    for passage in passages:
        passage.text.encode("utf-8")
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", passage.text)


def test_no_source_is_private(passages):
    for passage in passages:
        assert passage.source.startswith("topic: ") or not re.search(r"(^|\.)_", passage.source)


@pytest.mark.parametrize("topic", ["try", "string-methods", "debugger", "formatstrings"])
def test_parts_of_a_topic_are_complete(passages, topic):
    parts = [p.text.removeprefix(f"topic: {topic}: ") for p in passages if answers(p.source, [f"topic: {topic}"])]
    assert len(parts) > 1
    assert "".join("".join(parts).split()) == "".join(topics[topic].split())


def test_corpus_is_reproducible_and_imports_no_module_with_side_effects():
    # In two processes of their own: other tests of this process patch modules that are in the corpus.
    environment = {"PYTHONPATH": str(EXAMPLES), "PYTHONIOENCODING": "utf-8"}
    shown = [
        fresh_process.run(PRINT_DIGEST, environment={**environment, "PYTHONHASHSEED": seed}).stdout.splitlines()
        for seed in ("7", "8")
    ]
    assert shown[0] == shown[1]
    assert shown[0][1] == "[]"


def test_documents_are_kept_in_a_file_for_the_next_run(corpus, tmp_path):
    folder = tmp_path / "data"
    first = corpus.load_documents(folder)
    assert first == corpus.load_documents()
    (file,) = folder.iterdir()
    rows = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(rows[:2]), encoding="utf-8")
    assert corpus.load_documents(folder) == first[:2], "read from the file"


@pytest.mark.parametrize("damage", ["", "{", "5", "[5]", '[["only a text"]]', "null"])
def test_damaged_file_of_documents_is_written_anew(corpus, tmp_path, monkeypatch, damage):
    documents = [corpus.Passage("Bees make honey.", "bees")]
    monkeypatch.setattr(corpus, "_documents", lambda: {"bees": "Bees make honey."})
    corpus.load_documents(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(damage, encoding="utf-8")
    assert corpus.load_documents(tmp_path) == documents
    assert json.loads(file.read_text(encoding="utf-8")) == [["Bees make honey.", "bees"]]


def test_questions_are_60_in_three_languages(questions):
    assert len({row["question"] for row in questions}) == len(questions) == 60
    assert Counter(row["language"] for row in questions) == {"en": 40, "de": 10, "zh": 10}


def test_every_wanted_source_exists(passages, questions):
    sources = [passage.source for passage in passages]
    wanted = {name for row in questions for name in row["sources"]}
    assert {name for name in wanted if not any(answers(source, [name]) for source in sources)} == set()


def test_many_questions_do_not_name_their_answer(questions):
    def names_it(row):
        words = set(re.findall(r"\w+", row["question"].lower()))
        return any(name.lower().replace(":", ".").rsplit(".", 1)[-1].strip() in words for name in row["sources"])

    assert sum(not names_it(row) for row in questions) >= 10


@pytest.fixture(scope="module")
def embedder():
    pytest.importorskip("starlette")
    pytest.importorskip("uvicorn")
    with nanogpt_core.Sandbox() as sandbox:
        yield nanogpt_core.Embedder(model="text-embedding-3-small", api_key=sandbox.api_key, base_url=sandbox.base_url)


def test_search_finds_the_answers(embedder, passages, questions):
    documents = embedder.embed([passage.text for passage in passages])
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    missed, asked = [], questions[:30]  # the corpus is English, and the sandbox matches words
    assert {row["language"] for row in asked} == {"en"}
    for row in asked:
        # A query's own length does not change the order.
        best = np.argsort(-(documents @ embedder.embed_query(row["question"])), kind="stable")[:TOP]
        if not any(answers(passages[index].source, row["sources"]) for index in best):
            missed.append(row["question"])
    assert len(asked) - len(missed) >= WANTED_HITS, missed
