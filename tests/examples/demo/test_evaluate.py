"""Evaluation script: measures, variants of a model, costs, and the source of the vectors."""

import math
import os
import re
from pathlib import Path

import numpy as np
import pytest

from nanogpt_core.sandbox import Fault

pytest.importorskip("ir_measures", reason="the evaluate extra is not installed")
pytest.importorskip("matplotlib", reason="the evaluate extra is not installed")

PNG = b"\x89PNG\r\n\x1a\n"
MODELS = ["text-embedding-3-small", "BAAI/bge-large-en-v1.5"]


def question(*sources, language="en"):
    from evaluate import Question

    return Question("Which one?", sources, language)


def passages(*sources):
    from corpus import Passage

    return [Passage(f"text {number}", source) for number, source in enumerate(sources)]


def test_right_source_counts_once_at_its_best_passage():
    from evaluate import ranked

    found = passages("a", "b (part 2)", "b (part 1)", "c", "d")
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert ranked(question("c", "d"), found, scores) == [("a", 0.9), ("b", 0.8), ("answer", 0.6)]
    assert ranked(question("b"), found, scores)[1] == ("answer", 0.8)


def test_variants_are_those_that_the_model_supports():
    from evaluate import Variant, variants

    assert list(variants(["BAAI/bge-m3"], [256])) == [Variant("BAAI/bge-m3")]
    assert list(variants(["text-embedding-3-small"], [4096, 256, 1536])) == [
        Variant("text-embedding-3-small", 256),
        Variant("text-embedding-3-small"),
    ]
    qwen = "Qwen/Qwen3-Embedding-0.6B"
    assert list(variants([qwen], [16, 32])) == [
        Variant(qwen, 32),
        Variant(qwen, 32, instruction=True),
        Variant(qwen),
        Variant(qwen, instruction=True),
    ]


def test_measures_follow_from_the_ranks(service):
    from corpus import Passage
    from evaluate import Question, Variant, measure

    texts = {"bees": "Bees make honey.", "wasps": "Wasps make paper, no honey.", "cats": "Cats sleep all day long."}
    found = [Passage(text, name) for name, text in texts.items()]
    asked = [
        Question("What do bees make?", ("bees",), "en"),
        Question("Was machen bees, honey?", ("wasps", "ants"), "de"),  # bees come first
        Question("Who sleeps?", ("dogs",), "en"),  # not there at all
    ]
    result = measure(Variant("text-embedding-3-small", 512), service, found, asked)
    second = 1 / math.log2(3)
    assert result.width == 512
    assert result.quality == pytest.approx([(1 + second) / 3, 2 / 3, 1.5 / 3])
    assert result.by_language == pytest.approx({"de": second, "en": 0.5})


def test_limited_questions_are_spread_over_the_file():
    from evaluate import load_questions

    file = Path(__file__).resolve().parents[3] / "examples" / "demo" / "questions.jsonl"
    assert len(load_questions(file)) == 60
    assert len(load_questions(file, 99)) == 60
    assert [question.language for question in load_questions(file, 6)] == ["en", "en", "en", "en", "de", "zh"]


@pytest.fixture(scope="module")
def some_passages(corpus_passages):
    """A tenth of the corpus, and every passage that answers a question."""
    from evaluate import load_questions

    questions = Path(__file__).resolve().parents[3] / "examples" / "demo" / "questions.jsonl"
    answers = {source for question in load_questions(questions) for source in question.sources}
    return [
        passage
        for number, passage in enumerate(corpus_passages)
        if number % 10 == 0 or passage.source.split(" (part ")[0] in answers
    ]


def test_two_models_give_a_table_and_a_plot(sandbox, monkeypatch, tmp_path, capsys, some_passages):
    import evaluate

    monkeypatch.setattr(evaluate, "DATA", tmp_path)
    monkeypatch.setattr(evaluate, "load_passages", lambda: some_passages)
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    words = [*MODELS, "--limit", "6", "--dimensions", "128", "--plot", str(tmp_path / "plot.png")]
    evaluate.main(words)
    out = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert rows[0] == [
        "model", "width", "instruction", "$ / 1M tokens", "nDCG@10", "recall@5", "MRR", "nDCG@10 de", "nDCG@10 en",
        "nDCG@10 zh",
    ]  # fmt: skip
    assert [row[:4] for row in rows[2:]] == [
        [MODELS[0], "128", "", "0.02"],
        [MODELS[0], "1536", "", "0.02"],
        [MODELS[1], "1024", "", "0.01"],
        [MODELS[1], "1024", "yes", "0.01"],
    ]
    assert all(0 <= float(cell) <= 1 for row in rows[2:] for cell in row[4:])
    assert float(rows[3][4]) > 0.3
    assert re.search(r"Embedding: [\d,]+ tokens, \$0\.0\d+ at list price\.", out)
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)
    instructed = [text for request in sandbox.requests for text in request.inputs if text.startswith("Represent this")]
    assert len(instructed) == 6

    sandbox.clear()
    evaluate.main(words)
    assert sandbox.requests == []  # paid vectors are kept
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")] == [
        line for line in out.splitlines() if line.startswith("|")
    ]


def test_table_and_plot_of_the_sandbox_carry_a_warning(monkeypatch, tmp_path, capsys, some_passages):
    import evaluate
    from matplotlib.figure import Figure

    titles = []
    write = Figure.savefig

    def watched(figure, *arguments, **options):
        titles.append(figure.get_suptitle())
        write(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", watched)
    monkeypatch.setattr(evaluate, "DATA", tmp_path)
    monkeypatch.setattr(evaluate, "load_passages", lambda: some_passages)
    evaluate.main(["BAAI/bge-m3", "--limit", "2", "--plot", str(tmp_path / "plot.png")])
    out = capsys.readouterr().out
    assert out.count(evaluate.WARNING) == 2
    assert titles == [evaluate.WARNING]
    assert (tmp_path / "plot.png").read_bytes().startswith(PNG)
    assert not (tmp_path / "evaluate.sqlite").exists()


@pytest.fixture
def run(sandbox, monkeypatch, tmp_path, capsys):
    """Run the command line against the sandbox over few passages, and return its output and its exit message."""
    import evaluate

    monkeypatch.setattr(evaluate, "DATA", tmp_path)
    monkeypatch.setattr(evaluate, "load_passages", lambda: passages("heapq.merge", "bisect.insort"))
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)

    def run(*words):
        end = ""
        try:
            evaluate.main(["--limit", "1", "--plot", str(tmp_path / "plot.png"), *map(str, words)])
        except SystemExit as ended:
            end = ended.code
        out, err = capsys.readouterr()
        return out, f"{end} {err}"

    return run


def inputs(sandbox):
    return [text for request in sandbox.requests for text in request.inputs]


def test_unknown_model_ends_before_anything_is_embedded(run, sandbox):
    out, end = run(MODELS[0], "baai/bge-m33")
    assert "no embedding model 'baai/bge-m33'" in end
    assert "Try BAAI/bge-m3" in end
    assert inputs(sandbox) == []
    assert "|" not in out


def test_table_shows_other_models_after_an_error(run, sandbox):
    broken = Fault(400, body={"error": {"message": "this model rests"}})
    out, end = run("BAAI/bge-m3", "--dimensions")
    assert out.count("| BAAI/bge-m3 ") == 1
    sandbox.add_faults(broken)  # for the second model: the first comes from the cache
    out, end = run("BAAI/bge-m3", *MODELS, "--dimensions")
    assert [line.split()[1] for line in out.splitlines() if line.startswith("| ")][2:] == [
        "BAAI/bge-m3", MODELS[1], MODELS[1]
    ]  # fmt: skip
    assert f"error: {MODELS[0]}: " in end
    assert "this model rests" in end


def test_cost_is_printed_before_anything_is_embedded(run):
    out, end = run(MODELS[0], "--dimensions")
    match = re.search(
        r"Expected cost of 1 variants: ([\d,]+) tokens, (under \$0\.000001|\$0\.\d{6}) at list price\.", out
    )
    assert out.index(match[0]) < out.index("| model")
    assert end == " "


def test_cost_above_the_limit_ends_without_embedding_unless_allowed(run, sandbox):
    out, end = run(MODELS[0], "--dimensions", "--max-usd", "0.0000000001")
    assert "Expected cost" in out
    assert end.startswith("error: That is more than --max-usd 1e-10. Nothing was embedded.")
    assert inputs(sandbox) == []
    out, end = run(MODELS[0], "--dimensions", "--max-usd", "0.0000000001", "--yes")
    assert "Expected cost" not in out
    assert inputs(sandbox)


@pytest.mark.parametrize(("typed", "sent"), [("y", True), ("n", False), ("", False)])
def test_user_must_confirm_a_cost_above_the_limit(run, sandbox, monkeypatch, typed, sent):
    asked = []
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: (asked.append(text), typed)[1])
    run(MODELS[0], "--dimensions", "--max-usd", "0.0000000001")
    assert asked == ["That is more than --max-usd 1e-10. Go on? [y/N] "]
    assert bool(inputs(sandbox)) is sent


def test_unsupported_dimensions_are_reported(run):
    out, end = run("text-embedding-3-small", "--dimensions", "512", "1536", "5000")
    assert re.findall(r"Not tried: (\d+)", out) == ["5000"]
    assert end == " "


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limit", "0"], "--limit: must be at least 1"),
        (["--limit", "-1"], "--limit: must be at least 1"),
        (["--dimensions", "0"], "--dimensions: must be at least 1"),
        (["--questions", "/nonexistent"], "/nonexistent cannot be read (FileNotFoundError"),
        (["--questions", __file__], "cannot be read (JSONDecodeError"),
        (["--questions", os.devnull], "holds no questions"),
        (["--plot", "/nonexistent/x.png"], "--plot must name a file in a folder that is there"),
        (["--plot", "x.bees"], "--plot must end in one of"),
    ],
)
def test_invalid_option_ends_before_any_work(run, sandbox, words, message):
    out, end = run(*words)
    assert end.startswith("2 ")
    assert message in end
    assert inputs(sandbox) == []
    assert out == ""


ROW = '{"question": "Which?", "sources": ["heapq.merge"], "language": "en"}'


@pytest.mark.parametrize(
    "row",
    [
        ROW.replace('["heapq.merge"]', '"heapq.merge"'),  # would be eleven sources, of a letter each
        ROW.replace('["heapq.merge"]', "[]"),
        ROW.replace('["heapq.merge"]', "[1]"),
        ROW.replace('"Which?"', "5"),
        ROW.replace('"Which?"', '" "'),
        ROW.replace('"en"', "null"),
        "[]",
        ROW[:40],
    ],
)
def test_invalid_question_ends_before_any_work(run, sandbox, tmp_path, row):
    (tmp_path / "questions.jsonl").write_text(f"{ROW}\n{row}\n")
    out, end = run("--questions", tmp_path / "questions.jsonl")
    assert end.startswith("2 ")
    assert "Each line must be JSON such as" in end
    assert (inputs(sandbox), out) == ([], "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_unwritable_plot_ends_with_a_message_after_the_table(run, tmp_path):
    (tmp_path / "plot.png").symlink_to("/dev/full")
    out, end = run(MODELS[0], "--dimensions")
    assert f"| {MODELS[0]} " in out
    assert f"error: {tmp_path / 'plot.png'} could not be written: " in end
    assert "Drawn" not in out
