"""`nanogpt compare`: consent, output, failures and questions by a chat model."""

import json

import pytest

import warm_process
from nanogpt_core.cli.comparison.run import SANDBOX_NOTICE, Run
from nanogpt_core.sandbox import Fault, Reply

pytestmark = pytest.mark.skipif(
    not all(map(warm_process.installed, ("ir_measures", "matplotlib"))), reason="the compare extra is not installed"
)
PASSAGES = {
    "bees": "Bees make honey, which is sweet, and they keep it in a hive of wax for the winter.",
    "cats": "Cats sleep all day long, and hunt at night, when mice come out of their holes to eat.",
    "locks": "A lock keeps a door shut, and its key opens it; a picklock does not need the key.",
}
ASKED = {"What do bees make?": "bees", "Who sleeps all day?": "cats", "What opens a lock?": "locks"}


@pytest.fixture
def paid(fresh_sandbox, monkeypatch):
    """A sandbox with a key of its own, in the place of NanoGPT."""
    monkeypatch.setenv("NANOGPT_API_KEY", fresh_sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", fresh_sandbox.base_url)
    return fresh_sandbox


@pytest.fixture
def files(tmp_path):
    asked, corpus = tmp_path / "questions.jsonl", tmp_path / "corpus.jsonl"
    asked.write_text("".join(json.dumps({"question": q, "sources": [s]}) + "\n" for q, s in ASKED.items()))
    corpus.write_text("".join(json.dumps({"source": s, "text": text}) + "\n" for s, text in PASSAGES.items()))
    return asked, corpus


@pytest.fixture
def compare(nanogpt, files, tmp_path):
    """Return a function that compares on the files, into the folder `out`."""
    return lambda *words: nanogpt("compare", *files, "--output", tmp_path / "out", *words)


def inputs(sandbox):
    return [text for request in sandbox.requests for text in request.inputs]


def test_report_and_figures_are_written_and_the_advice_is_printed(paid, compare, tmp_path):
    result = compare("-m", "BAAI/bge-m3", "text-embedding-3-small", "-d", "64")
    assert (result.code, "2 models will take" in result.err) == (0, True)
    assert sorted(file.name for file in (tmp_path / "out").iterdir() if "sqlite-" not in file.name) == [
        "chart.png", "chart.svg", "report.html", "results.json", "vectors.sqlite",
    ]  # fmt: skip
    document = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [(each["model"], each["dimensions"]) for each in document["variants"]] == [
        ("BAAI/bge-m3", None),
        ("text-embedding-3-small", None),
        ("text-embedding-3-small", 64),
    ]
    assert document["advice"]["summary"] == "Take BAAI/bge-m3."
    assert "\nTake BAAI/bge-m3.\n" in result.out
    assert "\x1b" not in result.out
    assert "Take BAAI/bge-m3." in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert document["spent_usd"] > 0

    paid.clear()
    again = compare("-m", "BAAI/bge-m3", "text-embedding-3-small", "-d", "64", "--json")
    assert inputs(paid) == []  # vectors are paid for once
    assert json.loads(again.out)["advice"] == document["advice"]


@pytest.mark.usefixtures("_no_key")
def test_sandbox_needs_no_key_and_says_so(compare):
    result = compare("--sandbox", "-m", "BAAI/bge-m3")
    assert result.code == 0
    assert result.out.startswith(SANDBOX_NOTICE)
    assert compare("--sandbox", "-m", "BAAI/bge-m3", "--budget", "1e-12").code == 0  # nothing costs money
    assert compare("-m", "BAAI/bge-m3").code == 2
    assert compare("--sandbox", "--base-url", "http://127.0.0.1:9/v1").code == 2


def test_chat_model_that_writes_no_questions_is_refused(paid, compare):
    result = compare("-m", "BAAI/bge-m3", "--chat-model", "gpt-4o-mini")
    assert (result.code, paid.requests) == (2, [])
    assert "--chat-model has no effect without --make-questions" in result.err


@pytest.fixture
def _no_key(monkeypatch):
    monkeypatch.delenv("NANOGPT_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--budget", "1e-9"], "more than --budget allows. Nothing was sent. Pass a higher --budget."),
        (["--ask-above", "1e-9"], "Nothing was sent. Pass --yes, or a --budget."),
        (["-m", "sandbox-embedding-new"], "whose price is unknown. Nothing was sent. Pass --yes."),
        (
            ["-m", "sandbox-embedding-new", "--budget", "1"],
            "whose price is unknown. Nothing was sent. No budget can be kept: leave --budget out, and pass --yes.",
        ),
    ],
)
def test_cost_that_was_not_accepted_is_exit_code_6_and_sends_no_text(paid, compare, words, message):
    result = compare("-m", "BAAI/bge-m3", *words)
    assert result.code == 6
    assert message in result.err
    assert inputs(paid) == []


@pytest.mark.parametrize("words", [["--yes", "--ask-above", "0"], ["--budget", "0.01"]])
def test_accepted_cost_is_spent_without_a_question(paid, compare, words):
    assert compare("-m", "BAAI/bge-m3", *words).code == 0
    assert inputs(paid)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--limit", "0"], 2, "--limit must be at least 1"),
        (["--make-questions", "0"], 2, "--make-questions must be at least 1"),
        (["--tolerance", "-1"], 2, "--tolerance must be at least 0"),
        (["--tolerance", "nan"], 2, "--tolerance must be at least 0"),
        (["--budget", "0"], 2, "for --budget. It must be above 0"),
        (["-m", "bge-m33"], 2, "Try BAAI/bge-m3"),
        (["-m", "own@localhost"], 2, "nanogpt: own@localhost: base_url is not an http(s) URL."),
        (["-d", "many"], 2, "many"),
        (["-d", "0"], 2, "--dimensions must be at least 1, not 0"),
        (["-d", "64", "--no-reduced"], 2, "contradict each other"),
    ],
)
def test_impossible_option_is_one_line_and_embeds_nothing(paid, compare, words, code, message):
    result = compare(*words)
    assert (result.code, result.out) == (code, "")
    assert message in result.err.splitlines()[-1]
    assert inputs(paid) == []


def test_output_that_is_a_file_is_refused_before_anything_is_sent(paid, nanogpt, files):
    result = nanogpt("compare", *files, "-m", "BAAI/bge-m3", "-o", files[0])
    assert (result.code, inputs(paid)) == (2, [])
    assert f"nanogpt: {files[0]} is a file. Pass a folder as --output.\n" in result.err


@pytest.mark.parametrize(("missing", "remedy"), [(0, "--make-questions 100"), (1, "")])
def test_missing_file_is_exit_code_2(paid, compare, files, missing, remedy):
    files[missing].unlink()
    result = compare()
    assert result.code == 2
    assert f"{files[missing]}: There is no such file or folder. {remedy}".strip() in result.err.replace(
        "A chat model can write questions: ", ""
    )
    assert paid.requests == []


def test_question_about_an_unknown_source_is_named_before_money_is_spent(paid, compare, files):
    files[0].write_text('{"question": "Who barks?", "sources": ["dogs"]}\n')
    result = compare()
    assert result.code == 3
    assert "no source 'dogs', which question 1 names" in result.err
    assert inputs(paid) == []


def test_report_in_the_folder_of_the_corpus_is_not_read_by_the_next_comparison(paid, nanogpt, tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    for source, text in PASSAGES.items():
        (folder / f"{source}.md").write_text(text)
    rows = ({"question": question, "sources": [f"{source}.md"]} for question, source in ASKED.items())
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [tmp_path / "q.jsonl", folder, "-m", "text-embedding-3-small", "--no-reduced", "-q"]
    (folder / "report").mkdir()
    (folder / "report" / "report.html").write_text("<p>of an earlier comparison</p>")
    assert nanogpt("compare", *words, "-o", folder / "report").code == 0
    assert set(PASSAGES.values()) <= set(inputs(paid))
    assert "of an earlier comparison" not in inputs(paid)
    refused = nanogpt("compare", *words, "-o", folder)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "docs is the folder of the report too. Pass another --output." in refused.err
    beside = nanogpt("compare", *words, "-o", tmp_path, "--budget", "1e-12")
    assert (beside.code, "--budget" in beside.err) == (6, True)  # the corpus was read


def test_questions_in_the_folder_of_the_corpus_are_no_part_of_it(paid, nanogpt, tmp_path):
    for source, text in PASSAGES.items():
        (tmp_path / f"{source}.md").write_text(text)
    paid.add_replies(*(Reply(f"Question {number}?") for number in range(3)))
    words = [tmp_path / "q.jsonl", tmp_path, "-m", "BAAI/bge-m3", "-o", tmp_path / "out", "--json"]
    for more in (["--make-questions", "3"], []):
        result = nanogpt("compare", *words, *more)
        assert (result.code, json.loads(result.out)["passages"]) == (0, 3)


@pytest.mark.parametrize("place", [".", "questions"])
@pytest.mark.parametrize("more", [[], ["--make-questions", "3"]])
def test_folder_in_place_of_the_questions_is_named(paid, nanogpt, tmp_path, place, more):
    (tmp_path / "questions").mkdir()
    (tmp_path / "a.md").write_text("Bees make honey.")
    result = nanogpt("compare", tmp_path / place, tmp_path, *more)
    assert (result.code, result.err) == (
        2,
        f"nanogpt: {tmp_path / place} is a folder. Pass a file with the questions.\n",
    )
    assert paid.requests == []


def test_folder_is_read_as_by_embed_and_its_sources_are_paths(paid, nanogpt, tmp_path):
    folder = tmp_path / "docs"
    (folder / "guide").mkdir(parents=True)
    (folder / "guide" / "bees.md").write_text(
        f"# Bees\n\n{PASSAGES['bees']}\n\n" + "They fly from flower to flower. " * 200
    )
    (folder / "cats.html").write_text(f"<p>{PASSAGES['cats']}</p>")
    (tmp_path / "q.csv").write_text("question,source\nWhat do bees make?,guide/bees.md\nWho sleeps?,cats.html\n")
    words = ["--output", tmp_path / "out", "-m", "BAAI/bge-m3", "--chunk-tokens", "100", "--json"]
    result = nanogpt("compare", tmp_path / "q.csv", folder, *words)
    assert result.code == 0
    found = json.loads(result.out)
    assert found["sources"] == 2
    assert found["passages"] > 5
    assert not any("<p>" in text for text in inputs(paid))
    (folder / "broken.md").write_bytes(b"\xff\xfe\x00broken")
    broken = nanogpt("compare", tmp_path / "q.csv", folder, *words)
    assert broken.code == 3
    assert "broken.md" in broken.err
    assert nanogpt("compare", tmp_path / "q.csv", folder, *words, "--skip-bad").code == 0


@pytest.mark.parametrize(("field", "words"), [("source", []), ("name", ["--id-field", "name"])])
def test_records_are_named_by_a_field(paid, nanogpt, tmp_path, files, field, words):
    rows = "".join(f'{source},"{text}"\n' for source, text in PASSAGES.items())
    (tmp_path / "corpus.csv").write_text(f"{field},text\n{rows}")
    result = nanogpt(
        "compare",
        files[0],
        tmp_path / "corpus.csv",
        "--output",
        tmp_path / "out",
        "--json",
        "-m",
        "BAAI/bge-m3",
        *words,
    )
    assert result.code == 0
    assert json.loads(result.out)["sources"] == 3
    assert sorted(inputs(paid)[-3:]) == sorted(PASSAGES.values())


@pytest.mark.parametrize("words", [[], ["--skip-bad"], ["--chunk-tokens", "100"], ["--id-field", "_id"]])
def test_names_and_titles_of_json_lines_count_with_any_option_of_reading(paid, nanogpt, tmp_path, files, words):
    rows = ({"_id": source, "title": source.title(), "text": text} for source, text in PASSAGES.items())
    files[1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = nanogpt("compare", *files, "-o", tmp_path / "out", "-m", "BAAI/bge-m3", "--json", *words)
    assert (result.code, json.loads(result.out)["sources"]) == (0, 3)
    assert sorted(inputs(paid)[-3:]) == sorted(f"{source.title()}\n{text}" for source, text in PASSAGES.items())


def test_bad_line_of_the_corpus_is_named_and_left_out_on_request(paid, compare, files):
    with files[1].open("a") as corpus:
        corpus.write('{"source": "d"}\n{"text": "Dogs bark."}\n')
    refused = compare("-m", "BAAI/bge-m3")
    assert (refused.code, paid.requests) == (3, [])
    assert "corpus.jsonl:4: has no field 'text'; it has source" in refused.err
    assert "corpus.jsonl:5: has no field 'source'; it has text" in refused.err
    assert compare("-m", "BAAI/bge-m3", "--skip-bad").code == 0


def test_dimensions_that_no_model_takes_are_named(paid, compare):
    result = compare("-m", "text-embedding-3-small", "-d", "64", "1536", "5000", "--json")
    assert result.code == 0
    assert [line for line in result.err.splitlines() if "not tried" in line] == [
        "nanogpt: warning: 5000 dimensions are not tried: none of these models reduces its vectors to them."
    ]
    assert [each["dimensions"] for each in json.loads(result.out)["variants"]] == [None, 64]
    assert paid.requests


def test_failed_model_is_a_warning_and_the_exit_code(paid, compare):
    paid.add_faults(Fault(403, body={"error": {"message": "not for this key"}}))
    result = compare("-m", "BAAI/bge-m3", "text-embedding-3-small", "--no-reduced")
    assert result.code == 4
    assert "warning: BAAI/bge-m3 was not measured" in result.err
    assert "not for this key. Check what the key in NANOGPT_API_KEY may do.\n" in result.err  # not: in api_key
    assert "Take text-embedding-3-small." in result.out


def test_chat_model_writes_questions_and_goes_on_after_an_interruption(paid, compare, files, tmp_path):
    files[0].unlink()
    with files[1].open("a") as corpus:  # more passages than questions
        corpus.writelines(json.dumps({"source": s, "text": f"More: {text}"}) + "\n" for s, text in PASSAGES.items())
    paid.add_replies(Reply("What is sweet?"), Fault(400, body={"error": {"message": "a pause"}}))
    result = compare("--make-questions", "3", "-m", "BAAI/bge-m3")
    assert (result.code, "a pause" in result.err) == (5, True)
    kept = files[0].read_text().splitlines()
    assert len(kept) < 3
    paid.clear()
    paid.add_replies(*(Reply(f"Question {number}?") for number in range(3)))
    result = compare("--make-questions", "3", "-m", "BAAI/bge-m3")
    assert result.code == 0
    written = files[0].read_text().splitlines()
    assert written[: len(kept)] == kept
    assert len(written) == 3
    assert len({tuple(json.loads(line)["sources"]) for line in written}) == 3
    posts = [request for request in paid.requests if request.path.endswith("/chat/completions")]
    assert len(posts) == 3 - len(kept)
    assert "3 of the 3 questions are by a chat model." in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "The questions are synthetic" in result.out


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_questions_are_written_into_a_file_that_holds_none(paid, compare, files, content):
    files[0].write_text(content)
    paid.add_replies(Reply("What is sweet?"))
    assert compare("--make-questions", "1", "-m", "BAAI/bge-m3").code == 0


def test_questions_are_appended_to_a_file_whose_last_line_has_no_end(paid, compare, files):
    mine = files[0].read_text().splitlines()[0]
    files[0].write_text(mine)
    paid.add_replies(Reply("What is sweet?"), Reply("Who sleeps?"))
    assert compare("--make-questions", "3", "-m", "BAAI/bge-m3").code == 0
    lines = files[0].read_text().splitlines()
    assert (len(lines), lines[0]) == (3, mine)


def test_price_of_the_questions_is_asked_for_first(paid, compare, files, monkeypatch):
    files[0].unlink()
    monkeypatch.setattr("nanogpt_core.comparison.synthetic.fetch_chat_price", lambda *_: (1000.0, 1000.0))
    result = compare("--make-questions", "3", "--budget", "0.5")
    assert result.code == 6
    assert "3 questions by gpt-4o-mini will cost at most $" in result.err
    assert not files[0].exists()
    assert [request.path for request in paid.requests] == []
    assert compare("--make-questions", "3").code == 6


def test_questions_are_written_as_json_lines_only(paid, nanogpt, files, tmp_path):
    result = nanogpt("compare", tmp_path / "new.csv", files[1], "--make-questions", "3")
    assert (result.code, paid.requests) == (2, [])
    assert "Name a file that ends in .jsonl" in result.err


def test_comparison_goes_on_after_an_error_and_pays_for_no_text_twice(paid, compare, files):
    with files[1].open("a") as corpus:
        corpus.writelines(json.dumps({"source": f"{n}", "text": f"Passage {n}."}) + "\n" for n in range(300))
    # Three questions, five batches of passages, and then a refusal, after which nothing more is sent.
    paid.add_faults(*[None] * 8, Fault(403, body={"error": {"message": "not now"}}))
    assert compare("-m", "BAAI/bge-m3").code == 4
    assert compare("-m", "BAAI/bge-m3").code == 0
    answered = [text for request in paid.requests if request.status == 200 for text in request.inputs]
    assert len(answered) == len(set(answered)) == 3 + 303


def test_interrupt_is_code_130_and_says_that_the_same_command_goes_on(paid, compare, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "_report", interrupt)
        result = compare("-m", "BAAI/bge-m3")
    assert (result.code, result.out) == (130, "")
    kept = tmp_path / "out" / "vectors.sqlite"
    assert result.err.endswith(
        f"nanogpt: Interrupted. The same command goes on, and pays for no text again whose vector is in {kept}.\n"
    )
    questions = {text for text in inputs(paid) if text in ASKED}
    paid.clear()
    assert compare("-m", "BAAI/bge-m3").code == 0
    assert not questions & set(inputs(paid))


def test_corpus_without_a_passage_for_a_question_says_so(paid, nanogpt, tmp_path):
    (tmp_path / "short.jsonl").write_text('{"source": "a", "text": "Tea."}\n')
    result = nanogpt("compare", tmp_path / "q.jsonl", tmp_path / "short.jsonl", "--make-questions", "2")
    assert (result.code, inputs(paid)) == (3, [])
    assert "no passage that is long enough for a question" in result.err
