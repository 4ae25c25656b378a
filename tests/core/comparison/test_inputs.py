"""Questions and passages: read from files, and refused with file and line."""

import csv

import pytest

from nanogpt_core.comparison import Passage, Question, load_passages, load_questions, write_questions
from nanogpt_core.comparison.questions import check_sources
from nanogpt_core.errors import InvalidInputError, InvalidTypeError

ROW = '{"question": "Which?", "sources": ["a"], "language": "en"}'


def test_written_questions_are_read_back(tmp_path):
    found = [Question("Which?", ("a", "b"), "en"), Question("Wer \u2028 ist's?", ("ü",), synthetic=True)]
    write_questions(found, tmp_path / "questions.jsonl")
    assert load_questions(tmp_path / "questions.jsonl") == found
    assert [file.name for file in tmp_path.iterdir()] == ["questions.jsonl"]


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
def test_table_has_a_line_for_each_right_source(tmp_path, suffix, mark):
    file = tmp_path / f"questions.{suffix}"
    lines = [("question", "source", "language"), ("Which?", "a", "en"), ("Who?", "b", ""), ("Which?", "c", "en")]
    file.write_text("\ufeff" + "\n".join(map(mark.join, lines)))
    assert load_questions(file) == [Question("Which?", ("a", "c"), "en"), Question("Who?", ("b",))]


def test_limited_questions_are_spread_over_the_file(tmp_path):
    write_questions([Question(f"{number}?", ("a",)) for number in range(10)], tmp_path / "q.jsonl")
    assert [each.text for each in load_questions(tmp_path / "q.jsonl", 3)] == ["0?", "3?", "6?"]
    assert len(load_questions(tmp_path / "q.jsonl", 99)) == 10


@pytest.mark.parametrize(
    "row",
    [
        ROW.replace('["a"]', '"a"'),  # would be a source for each letter
        ROW.replace('["a"]', "[]"),
        ROW.replace('["a"]', "[1]"),
        ROW.replace('"Which?"', "5"),
        ROW.replace('"Which?"', '" "'),
        ROW.replace('"en"', "null"),
        "[]",
        ROW[:40],
    ],
)
def test_invalid_question_is_named_by_file_and_line(tmp_path, row):
    file = tmp_path / "questions.jsonl"
    file.write_text(f"{ROW}\n\n{row}\n")
    with pytest.raises(InvalidInputError, match=r"questions\.jsonl, line 3, .*Each line is JSON such as") as caught:
        load_questions(file)
    assert caught.value.positions == (2,)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.jsonl", b"", "has no questions"),
        ("q.jsonl", b'{"question": "a",\n\n\xff', "line 3, is not UTF-8 text"),
        ("q.jsonl", b"[" * 9000, "line 1, is not JSON"),
        ("q.csv", b"question,answer\n", "has the columns question, answer. It needs the columns question and source"),
        ("q.csv", b"question,source\nWhich?,\n", "line 2, has no question or no source"),
        ("q.csv", b"", "has the columns none"),
        ("q.csv", b'question,source\nOne?,a\n"Two?,b\nThree?,c\n', r"line 3, is not CSV \(unexpected end of data\)"),
        ("q.csv", b'"question,source\n', r"line 1, is not CSV \(unexpected end of data\)"),
    ],
)
def test_unusable_file_of_questions_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInputError, match=message):
        load_questions(tmp_path / name)


def test_line_separators_of_unicode_do_not_end_a_row(tmp_path):
    (tmp_path / "q.csv").write_text("question,source\nWhich\u2028one\x85is\x0cit?,a\x1cb\n", encoding="utf-8")
    assert load_questions(tmp_path / "q.csv") == [Question("Which\u2028one\x85is\x0cit?", ("a\x1cb",))]


def test_row_that_the_reader_of_csv_refuses_is_named(tmp_path):
    (tmp_path / "q.csv").write_text("question,source\nWhich of them?,a\n")
    before = csv.field_size_limit(10)  # it is one for the whole process
    try:
        with pytest.raises(InvalidInputError, match=r"q\.csv, line 2, is not CSV \(field larger"):
            load_questions(tmp_path / "q.csv")
    finally:
        csv.field_size_limit(before)


def test_source_that_the_corpus_does_not_have_is_named_with_near_ones():
    asked = [Question("One?", ("guide/install.md",)), Question("Two?", ("guide/instal.md",))]
    with pytest.raises(
        InvalidInputError, match=r"no source 'guide/instal\.md', which question 2 .*guide/install\.md"
    ) as e:
        check_sources(asked, ["guide/install.md", "other.md"])
    assert e.value.positions == (1,)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Question(" ", ("bees",)), "needs a text"),
        (lambda: Question("What do bees make?", "bees"), "sources must be a list of str, not str"),
        (lambda: Question("What do bees make?", ()), "names no source"),
        (lambda: Passage("", "bees"), "needs a text"),
        (lambda: Passage("Bees make honey.", 5), "source of a passage must be a str"),
        (lambda: write_questions("questions.jsonl", []), "questions must be a list of Question"),
    ],
)
def test_question_or_passage_that_is_none_is_refused(make, words):
    with pytest.raises((InvalidInputError, InvalidTypeError), match=words):
        make()


def test_sources_of_a_question_may_be_any_iterable():
    assert Question("Which?", iter(["a", "b"])) == Question("Which?", ("a", "b"))


def test_file_that_cannot_be_written_leaves_nothing_beside_it(tmp_path):
    (tmp_path / "q.jsonl").mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - the class depends on the system
        write_questions([Question("One?", ("a",))], tmp_path / "q.jsonl")
    with pytest.raises(UnicodeEncodeError):
        write_questions([Question("\ud83d?", ("a",))], tmp_path / "r.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["q.jsonl"]


def test_lines_of_a_corpus_may_name_the_source_id_and_have_a_title(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text(
        '{"source": "a", "text": "one"}\n\n{"_id": 7, "title": "T", "text": "two"}\n'
        '{"id": "c", "text": "x", "score": NaN}\n'
    )
    assert load_passages(file) == [Passage("one", "a"), Passage("T\ntwo", "7"), Passage("x", "c")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no passages"),
        (b"{}", "line 1, has no text"),
        (b'{"text": "x"}', "line 1, has no source"),
        (b'{"text": "x", "source": true}\n{"text": "x", "source": ["a"]}', "line 2, has no source"),
        (b"[1]", "line 1, is not a JSON object"),
        (b'{"text": "\\ud83d", "source": "a"}', r"line 1, is not JSON \(no low surrogate"),
        (b'{"text": "x", "source": "\\ude00"}', r"line 1, is not JSON \(invalid high surrogate"),
        (b"{", "line 1, is not JSON"),
        (b"{}\n\xff", "line 2, is not UTF-8 text"),
        (b"[" * 9000, "line 1, is not JSON"),
    ],
)
def test_unusable_corpus_is_refused(tmp_path, content, message):
    (tmp_path / "corpus.jsonl").write_bytes(content)
    with pytest.raises(InvalidInputError, match=message):
        load_passages(tmp_path / "corpus.jsonl")
