"""Evaluation script: `nanogpt compare` on the demo's corpus and questions."""

import json

import pytest

import warm_process

NEEDED = ("ir_measures", "matplotlib", "cyclopts")
pytestmark = [
    pytest.mark.xdist_group("corpus"),  # one reading of the corpus for all
    pytest.mark.skipif(not all(map(warm_process.installed, NEEDED)), reason=f"needs {', '.join(NEEDED)}"),
]
MODELS = ["text-embedding-3-small", "BAAI/bge-large-en-v1.5"]


@pytest.fixture(scope="module")
def questions():
    from evaluate import QUESTIONS

    from nanogpt_core.comparison import load_questions

    return load_questions(QUESTIONS)


@pytest.fixture(scope="module")
def some_passages(corpus_passages, questions):
    """A tenth of the corpus, and every passage that answers a question."""
    answers = {source for question in questions for source in question.sources}
    return [
        passage
        for number, passage in enumerate(corpus_passages)
        if number % 10 == 0 or passage.source.split(" (part ")[0] in answers
    ]


@pytest.fixture
def evaluate(monkeypatch, tmp_path, capsys, some_passages):
    """Return a function that runs the script over few passages: its exit code, its output, and its figures."""
    import evaluate as script

    monkeypatch.setattr(script, "DATA", tmp_path)
    monkeypatch.setattr(script, "load_passages", lambda: some_passages)

    def call(*words):
        code = script.main(["--output", str(tmp_path / "evaluation"), *words])
        file = tmp_path / "evaluation" / "results.json"
        return code, capsys.readouterr(), json.loads(file.read_text(encoding="utf-8")) if file.exists() else None

    return call


def test_corpus_has_the_sources_of_all_questions(corpus_passages, questions):
    sources = {passage.source.split(" (part ")[0] for passage in corpus_passages}
    assert {source for question in questions for source in question.sources} <= sources
    assert {question.language for question in questions} == {"en", "de", "zh"}
    assert len(questions) == 60


def test_models_are_compared_on_the_service_of_the_environment(evaluate, sandbox, monkeypatch, tmp_path):
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    code, captured, found = evaluate(*MODELS, "--limit", "6", "--dimensions", "128")
    assert code == 0
    assert [(each["model"], each["dimensions"], each["query_instruction"]) for each in found["variants"]] == [
        (MODELS[0], None, False),
        (MODELS[0], 128, False),
        (MODELS[1], None, False),
        (MODELS[1], None, True),
    ]
    assert found["variants"][0]["nDCG@10"] > 0.3
    assert found["questions"] == 6
    assert "nDCG@10 by language" in (tmp_path / "evaluation" / "report.html").read_text(encoding="utf-8")
    instructed = [text for request in sandbox.requests for text in request.inputs if text.startswith("Represent this")]
    assert len(instructed) == 6
    assert "SANDBOX" not in captured.out


def test_without_a_key_the_sandbox_is_used_and_named(evaluate):
    code, captured, found = evaluate("BAAI/bge-m3", "--limit", "2")
    assert code == 0
    assert captured.out.startswith("SANDBOX: vectors made of words")
    assert found["notice"].startswith("SANDBOX")


def test_error_of_the_command_is_the_exit_code_of_the_script(evaluate, sandbox):
    code, captured, found = evaluate("baai/bge-m33")
    assert (code, found, captured.out) == (2, None, "")
    assert "Try BAAI/bge-m3" in captured.err
    assert sandbox.requests == []
