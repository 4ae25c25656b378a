"""Minimum score with the sandbox: questions on the corpus keep a passage, most other questions keep none."""

import json
from pathlib import Path

import numpy as np
import pytest

from nanogpt_core import Embedder

pytestmark = pytest.mark.xdist_group("corpus")  # one reading of the corpus for all

QUESTIONS = Path(__file__).resolve().parents[3] / "examples" / "demo" / "questions.jsonl"

ELSEWHERE = [
    "What is the capital of France?",
    "How do I bake sourdough bread?",
    "Who won the football world cup in 1998?",
    "What is the recommended dose of ibuprofen for adults?",
    "How tall is Mount Everest?",
    "When does the next train to Hamburg leave?",
    "Which wine goes well with grilled salmon?",
    "How do plants turn sunlight into sugar?",
    "Wie hoch ist die Zugspitze?",
    "法国的首都是哪里？",
    "Tell me a joke about penguins.",
    "What did Napoleon eat for breakfast?",
    "How do I change the oil of my car?",
    "Is it going to rain tomorrow in Berlin?",
    "How many moons does Jupiter have?",
    "How high is the Zugspitze?",
    "Who painted the Mona Lisa?",
    "How long should I boil an egg?",
    "What is a good name for a cat?",
    "Which river flows through Cologne?",
]


def test_sandbox_min_score_separates_the_corpus_from_other_subjects(service, corpus_passages):
    from settings import SANDBOX_MIN_SCORE

    sources = np.array([passage.source.split(" (part ")[0] for passage in corpus_passages])
    embedder = Embedder(api_key=service.api_key, base_url=service.base_url)
    matrix = embedder.embed([passage.text for passage in corpus_passages])
    found = []
    for line in QUESTIONS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        scores = matrix @ embedder.embed_query(row["question"])
        best = np.argsort(-scores)[:5]
        if row["language"] == "en" and np.isin(sources[best], row["sources"]).any():
            found.append(scores[best][np.isin(sources[best], row["sources"])].max())
    kept = [score for score in found if score >= SANDBOX_MIN_SCORE]
    empty = [question for question in ELSEWHERE if (matrix @ embedder.embed_query(question)).max() < SANDBOX_MIN_SCORE]
    # Measured: 30 of 30, and 18 of 20; other versions of Python have other texts.
    assert len(found) >= 24
    assert len(kept) >= len(found) - 2
    assert len(empty) >= 15
