"""Retrieval quality of embedding models over Python's own documentation: ``nanogpt compare`` on 60 questions.

``python examples/demo/evaluate.py [MODEL ...] [OPTION ...]`` writes the documentation (corpus.py) into a file, and
hands it to ``nanogpt compare`` with the hand-written questions of questions.jsonl. All options of that command can be
given. The report is in the folder ``evaluation``. With a key the command first prints the expected cost, and asks for
consent above 0.50 US dollars.

Without a key the vectors come from the sandbox. They are made of words, not by a model, and the figures say nothing
about the models: they only show that the evaluation works.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import _startup  # noqa: F401  first: it handles Ctrl-C and missing packages during the imports
import ir_measures  # noqa: F401  a missing package ends the script before the documentation is read
from corpus import load_passages
from settings import DATA

from nanogpt_core.cli.entry import run
from nanogpt_core.http.secrets import KEY_VARIABLES

QUESTIONS = Path(__file__).resolve().parent / "questions.jsonl"


def write_corpus(file: Path) -> None:
    """Write the documentation of this interpreter as lines of ``source`` and ``text``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        # A source has several passages; the questions name sources.
        {"source": passage.source.split(" (part ")[0], "text": passage.text}
        for passage in load_passages()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main(words: Sequence[str] | None = None) -> int:
    """Write the corpus, and run ``nanogpt compare``; return its exit code."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n", maxsplit=1)[0],
        epilog="All other options are those of nanogpt compare: nanogpt compare --help",
    )
    parser.add_argument("models", nargs="*", metavar="MODEL", help="default: those of nanogpt compare")
    parser.add_argument("--output", default="evaluation", help="folder of the report (default: %(default)s)")
    options, others = parser.parse_known_args(words)
    corpus = DATA / "evaluation.jsonl"
    write_corpus(corpus)
    command = ["compare", str(QUESTIONS), str(corpus), "--output", options.output, *others]
    for model in options.models:
        command += ["--model", model]
    if not any(os.environ.get(name) for name in KEY_VARIABLES):
        command.append("--sandbox")
    return run(command)


if __name__ == "__main__":
    sys.exit(main())
