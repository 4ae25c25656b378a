"""A small corpus with a right answer for each question, as objects and as files."""

import json

import pytest

from nanogpt_core.comparison import Passage, Question

TEXTS = {
    "bees": "Bees make honey.",
    "wasps": "Wasps make paper, no honey.",
    "cats": "Cats sleep all day long.",
    "locks": "A lock keeps a door shut.",
}
ASKED = {
    "What do bees make?": ("bees", "en"),
    "Who sleeps all day?": ("cats", "en"),
    "Was machen wasps, paper?": ("wasps", "de"),
    "How do I keep a door shut?": ("locks", "en"),
}


@pytest.fixture(scope="session", autouse=True)
def _packages():
    for name in ("ir_measures", "matplotlib"):
        pytest.importorskip(name, reason="the compare extra is not installed")


@pytest.fixture
def passages():
    return [Passage(text, name) for name, text in TEXTS.items()]


@pytest.fixture
def questions():
    return [Question(text, (source,), language) for text, (source, language) in ASKED.items()]


@pytest.fixture
def files(tmp_path, passages, questions):
    """The files of questions and corpus."""
    asked, corpus = tmp_path / "questions.jsonl", tmp_path / "corpus.jsonl"
    rows = [{"question": each.text, "sources": list(each.sources), "language": each.language} for each in questions]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus.write_text("".join(json.dumps({"source": each.source, "text": each.text}) + "\n" for each in passages))
    return asked, corpus
