"""Prose check: it finds each idiom in docstrings, comments and Markdown, and ignores code."""

import runpy
from pathlib import Path

import pytest

MAIN = runpy.run_path(str(Path(__file__).resolve().parents[2] / ".ci" / "prose.py"))["main"]
FILLER = "The service sends a reply with one vector per text. " * 20
SENTENCES = {
    '"what" as a noun': "It says what it does, and what it will do.",
    '"where" for "if" or "when"': "An error where a key is missing, and where none is set.",
    '"alone" for "only"': "Listens on this machine alone.",
    '"so that"': "It waits so that others can run, so that they end, so that all is well.",
    '"whoever", "nobody" and the like': "Whoever starts late tells nobody.",
    '"answer in a form": structured output': "Answers in a form are checked.",
}


@pytest.fixture
def run(tmp_path, capsys):
    """Check a file with some text; return the status and the output."""

    def run(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8")
        try:
            MAIN([str(tmp_path / name)])
        except SystemExit as ended:  # with words, and so the status 1
            return 1, f"{capsys.readouterr().out}{ended}"
        return 0, capsys.readouterr().out

    return run


WAYS = {
    "docstring.py": 'def f():\n    """Send a batch.\n\n    {text}\n    """\n',
    "comment.py": "x = 1  # {text}\n",
    "constant.py": 'X = 1\n"""{text}"""\n',
    "page.md": "# Title\n\n{text}\n",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rule", SENTENCES)
def test_each_idiom_is_found_with_its_line(run, rule, way):
    status, output = run(way, WAYS[way].replace("{text}", SENTENCES[rule]))
    assert status == 1
    assert f"Above the limit: {rule}." in output
    assert f"{way}:" in output


@pytest.mark.parametrize("way", WAYS)
def test_plain_prose_passes(run, way):
    status, output = run(way, WAYS[way].replace("{text}", FILLER))
    assert (status, "<-" in output) == (0, False), output


@pytest.mark.parametrize("text", ["What a call returns.", "Whether it is open.", "How many texts there are."])
def test_docstring_that_begins_with_a_clause_is_found(run, text):
    status, output = run("clause.py", f'def f():\n    """{text} {FILLER}"""\n')
    assert status == 1
    assert "Above the limit: docstring that begins with a clause." in output


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("code.md", "```\nwhat alone where\n```\n\n`what alone where`\n"),
        ("code.py", "what = alone = where = 'what alone where'\n"),
        ("quoted.md", 'Say "structured output", not "answers in a form".\n'),
    ],
)
def test_code_and_quotations_are_ignored(run, name, text):
    status, output = run(name, text)
    assert status == 0, output
