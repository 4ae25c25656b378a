"""The Makefile's targets for the demo: the user's words reach the scripts unchanged."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
PYTHON = """#!/bin/sh
for word; do printf '%s\\0' "$word"; done
printf '\\n'
"""


@pytest.fixture
def make(tmp_path):
    """Run make with a fake Python that prints its arguments; return the arguments of each call."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(PYTHON)
    (folder / "bin" / "python").chmod(0o755)
    for name in ("bin/uv", "demo", "web", "evaluate"):  # each is newer than its sources: make sets nothing up
        (folder / name).touch()

    def run(*words):
        command = ["make", "--no-print-directory", f"VENV={folder}", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
        assert done.stderr == ""
        # Before the first script, make says which follow.
        calls = [line for line in done.stdout.split("\0\n") if line.strip()]
        return [call[call.index("examples/") :].split("\0") for call in calls]

    return run


QUESTIONS = [
    'what is $HOME, $$HOME and "quoted" words \\ `id`?',
    "-h",
    "it's $(shell echo run by make) and $(echo run by sh) $(",
    "a\nb * ~ ; # !",
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_question_reaches_both_demos_unchanged(make, question):
    assert make("demo", f"Q={question}") == [
        [f"examples/demo/{name}_pipeline.py", "--", question] for name in ("langchain", "llama_index")
    ]


def test_demos_have_a_default_question(make):
    assert [words[1:] for words in make("demo")] == [["--"], ["--"]]


def test_data_folder_and_chat_price_are_passed_on(make):
    given = ["DATA=/a b/$c", "CHAT_PRICE=0.15 0.6"]
    options = ["--data", "/a b/$c", "--chat-price", "0.15", "0.6"]
    assert [words[1:] for words in make("demo", *given)] == [[*options, "--"]] * 2
    assert make("web", "PORT=81", *given) == [["examples/demo/web.py", "--port", "81", *options]]


@pytest.mark.parametrize("words", ["Qwen/Qwen3-Embedding-0.6B  BAAI/bge-m3", "", *(word for word in QUESTIONS)])
def test_models_reach_the_evaluation_word_by_word(make, words):
    assert make("evaluate", f"MODELS={words}") == [["examples/demo/evaluate.py", "--", *words.split()]]


def test_models_can_be_set_in_the_environment(make, monkeypatch):
    monkeypatch.setenv("MODELS", "$(shell echo) M*")
    assert make("evaluate") == [["examples/demo/evaluate.py", "--", "$(shell", "echo)", "M*"]]


def test_words_in_place_of_numbers_are_not_executed(make):
    port = "$(shell echo run) `id`"
    (words,) = make("web", f"PORT={port}", "CHAT_PRICE=M* $(echo 1)")
    assert words == ["examples/demo/web.py", "--port", port, "--chat-price", "M*", "$(echo", "1)"]
