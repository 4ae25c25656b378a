"""Reading of files: each format, and the place of each problem."""

import gzip
import io
import json
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanogpt_core.cli.exit_codes import CommandError
from nanogpt_core.cli.options import InputOptions
from nanogpt_core.cli.paths import STDIN
from nanogpt_core.cli.reading import tables, text_files
from nanogpt_core.cli.reading.passage import Passage, Problem
from nanogpt_core.cli.reading.source_reader import SourceReader
from nanogpt_core.cli.reading.sources import Source, find_sources
from nanogpt_core.cli.reading.text_files import html_to_text


def read(path, **options):
    """Return the passages and problems of a file."""
    sources, problems, _ = find_sources([str(path)], given_format=options.get("format"))
    found = [*problems, *(item for source in sources for item in SourceReader(InputOptions(**options)).read(source))]
    passages = [item for item in found if isinstance(item, Passage)]
    return passages, [
        str(item).replace(f"{path.parent.as_posix()}/", "") for item in found if isinstance(item, Problem)
    ]


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


PAGE = b"""<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents %d 0 R
/Resources << /Font << /F %d 0 R >> /XObject << /Im %d 0 R >> >> >>"""
PICTURE = b"""<< /Type /XObject /Subtype /Image /Width 1 /Height 1
/ColorSpace /DeviceGray /BitsPerComponent 8 /Length 1 >>
stream
\x80
endstream"""


def pdf(*pages):
    """Return a PDF file with these texts; None is a page with a picture."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    kids = []
    for text in pages:
        picture = text is None
        stream = b"q 9 0 0 9 9 9 cm /Im Do Q" if picture else b"BT /F 12 Tf 72 720 Td (%s) Tj ET" % text.encode()
        page = len(objects) + 1
        kids.append(b"%d 0 R" % page)
        objects += [
            PAGE % (page + 1, page + 2, page + 3),
            b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
            b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
            PICTURE,
        ]
    objects[1] = b"<< /Type /Pages /Kids [%s] /Count %d >>" % (b" ".join(kids), len(kids))
    out, places = io.BytesIO(), []
    out.write(b"%PDF-1.4\n")
    for number, content in enumerate(objects, 1):
        places.append(out.tell())
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, content))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(b"trailer << /Root 1 0 R /Size %d >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start))
    return out.getvalue()


def test_text_is_divided_and_each_passage_knows_its_line(tmp_path):
    lines = [f"Line {number} has a few words in it." for number in range(1, 101)]
    passages, problems = read(written(tmp_path, "a.txt", "\n".join(lines)), chunk_tokens=64, chunk_overlap=16)
    assert problems == []
    assert len(passages) > 5
    for passage in passages:
        assert passage.text.startswith(lines[passage.line - 1])
    assert [passage.id for passage in passages[:2]] == [f"{passages[0].source}#1", f"{passages[0].source}#2"]
    assert passages[0].place == f"{passages[0].source}:1"


def test_lines_are_counted_through_a_long_text_that_is_read_in_parts(tmp_path):
    lines = [f"Line {number} has a few words in it." + "\n" * (number % 50 == 0) for number in range(1, 60_001)]
    path = written(tmp_path, "long.md", "\n".join(lines))
    passages, problems = read(path)
    assert problems == []
    numbered = path.read_text().splitlines()
    assert all(numbered[passage.line - 1] == passage.text.splitlines()[0] for passage in passages)


def test_whole_documents_with_chunk_tokens_0(tmp_path):
    passages, _ = read(written(tmp_path, "a.md", "\n\n# Title\n\nText.\n"), chunk_tokens=0)
    assert [(passage.text, passage.line) for passage in passages] == [("# Title\n\nText.", 3)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_mark_gives_the_encoding(tmp_path, encoding):
    passages, problems = read(written(tmp_path, "a.txt", "Größe 你好".encode(encoding)))
    assert ([passage.text for passage in passages], problems) == (["Größe 你好"], [])


def test_other_encoding_is_read_on_request(tmp_path):
    path = written(tmp_path, "a.txt", "Größe".encode("latin-1"))
    assert [passage.text for passage in read(path, encoding="latin-1")[0]] == ["Größe"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.txt", "eins\nzwei\nGrö\n".encode("latin-1"), "a.txt:3: is not utf-8 (byte 0xf6); see --encoding"),
        ("a.html", "<p>\n<p>Grö".encode("latin-1"), "a.html:2: is not utf-8 (byte 0xf6); see --encoding"),
        ("a.csv", "text\nok\nGrö\n".encode("latin-1"), "a.csv:3: is not utf-8 (byte 0xf6); see --encoding"),
        ("a.txt", b"PK\x03\x04\0\0\0", "a.txt: is a binary file"),
        ("a.csv", b"text\n\0\0", "a.csv: is a binary file"),
        ("a.txt", "", "a.txt: holds no text"),
        ("a.md", " \n\n", "a.md: holds no text"),
        ("a.html", "<script>var a</script>", "a.html: holds no text"),
        ("a.jsonl", "", "a.jsonl: holds no text"),
        ("a.csv", "text\n", "a.csv: holds no text"),
        (
            "a.jsonl",
            '[{"text": "a"}]',
            "a.jsonl: is a JSON array, not JSON Lines; pass --format json",
        ),
        (
            "a.jsonl",
            '[\n{"text": "a"}]',
            "a.jsonl: is a JSON array, not JSON Lines; pass --format json",
        ),
        ("a.json", "", "a.json: holds no text"),
        ("a.json", "[]", "a.json: holds no text"),
        ("a.json", '[{"text": "a"},\n{"text": b}]', "a.json:2: is not JSON (unexpected character"),
        ("a.json", '["b", {"text": "a"}]', "a.json#1: is not a JSON object but a string"),
        ("a.json", '[{"text": "a"}, {"body": "b"}]', "a.json#2: has no field 'text'; it has body"),
        ("a.jsonl", '"text"', "a.jsonl:1: is not a JSON object but a string"),
        ("a.jsonl", '{"title": "a", "n": 1}', "a.jsonl:1: has no field 'text'; it has title, n; see --field"),
        ("a.jsonl", '{"text": null}', "a.jsonl:1: field 'text' is null, not a text"),
        ("a.jsonl", '{"text": 5}', "a.jsonl:1: field 'text' is a number, not a text"),
        ("a.jsonl", '{"text": true}', "a.jsonl:1: field 'text' is a boolean, not a text"),
        ("a.jsonl", '{"text": ["a"]}', "a.jsonl:1: field 'text' is a list, not a text"),
        ("a.jsonl", '{"text": ""}', "a.jsonl:1: field 'text' is empty"),
        ("a.jsonl", '{"text": " "}', "a.jsonl:1: field 'text' is blank"),
        ("a.csv", "id,body\n1,a\n2,b\n", "a.csv:1: has no column text; it has id, body; see --field"),
        ("a.csv", "x" * 9000 + "\n", f"a.csv:1: has no column text; it has {'x' * 40}; see --field"),
        ("a.csv", "text,text\na,b\n", "a.csv:1: has the column text twice"),
        ("a.csv", "text\n" + "a\n" * 9000 + "a\0b\n", "a.csv:9002: "),
        ("a.txt", "a line\n" * 9000 + "a\0b\n", "a.txt:9001: has a NUL byte, which is no text"),
        ("a.jsonl", '{"text": "a"}\n'.encode("utf-16"), "a.jsonl: is UTF-16, and JSON is UTF-8"),
        ("a.html", "<p>a</p>\n<p><![x[y]]></p>", "a.html:2: is not HTML ("),
        ("a.csv", "id,text\n1\n", "a.csv:2: has 1 field, and the first row 2"),
        ("a.csv", 'text\n"never closed\n', "a.csv:2: is not CSV (unexpected end of data)"),
        ("a.csv", 'text\n"closed" and more\n', "a.csv:2: is not CSV ("),
        ("a.parquet", b"nonsense", "a.parquet: is not Parquet"),
        ("a.pdf", b"nonsense", "a.pdf: is not a PDF that can be read"),
        ("a.pdf", pdf(None), "a.pdf page 1: has pictures and no text; a scan needs OCR first"),
        ("a.pdf", pdf(""), "a.pdf: holds no text"),
    ],
)
def test_problem_is_named_with_its_place(tmp_path, name, content, problem):
    passages, problems = read(written(tmp_path, name, content))
    assert [found for found in problems if not found.startswith(problem)] == []
    assert len(problems) == 1
    assert all(passage.text in {"ok", "a"} for passage in passages)


def test_binary_column_is_named_with_its_place(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [b"a"]}), path)
    assert read(path) == ([], ["a.parquet#1: field 'text' is binary, not a text"])


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('[{"text": "a"}, {"text": "b"}]', ["a", "b"]),
        ('\ufeff[\n  {\n    "text": "a"\n  }\n]\n', ["a"]),
        ('{\n  "text": "a",\n  "n": 1\n}\n', ["a"]),
        ('{"text": "a",\n "n": 1}', ["a"]),
        ('{"text": "a"}\n{"text": "b"}\n', ["a", "b"]),  # JSON Lines in a file with the wrong name
        ('{"text": "a"}', ["a"]),
    ],
)
def test_json_by_its_name_or_its_beginning_gives_a_passage_for_each_object(tmp_path, monkeypatch, content, texts):
    passages, problems = read(written(tmp_path, "a.json", content))
    assert ([one.text for one in passages], problems) == (texts, [])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content.encode()))))
    assert [one.text for one in read(written(tmp_path, "no_ending", content))[0]] == texts
    piped = SourceReader(InputOptions()).read(Source(STDIN, None, None))
    assert [one.text for one in piped] == texts


def test_json_over_the_limit_names_the_way_to_json_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_CHARACTERS", 10)
    _, problems = read(written(tmp_path, "a.json", '[{"text": "a"}]'))
    assert problems == ["a.json: is larger than 64 MiB; convert it to JSON Lines with: jq -c '.[]'"]


def test_bad_first_line_of_piped_json_lines_is_one_problem(monkeypatch):
    content = b'{"text": "a\n{"text": "b"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
    problem, passage = SourceReader(InputOptions()).read(Source(STDIN, None, None))
    assert (problem.place, passage.text) == ("<stdin>:1", "b")


def test_bad_json_in_line_70001_is_named_and_the_rest_is_read(tmp_path):
    lines = ['{"text": "one of many"}'] * 70_010
    lines[70_000] = '{"text": "broken'
    passages, problems = read(written(tmp_path, "a.jsonl", "\n".join(lines)))
    assert len(passages) == 70_009
    assert [problem.partition("(")[0] for problem in problems] == ["a.jsonl:70001: is not JSON "]


def test_line_of_csv_is_limited_as_other_lines_are(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_CHARACTERS", 100)
    path = written(tmp_path, "a.csv", "text\na\n" + "b" * 101 + "\n")
    passages, problems = read(path)
    assert [passage.text for passage in passages] == ["a"]
    assert problems == ["a.csv:3: the line has more than 100 characters"]


def test_blank_lines_before_the_names_of_csv_are_left_out(tmp_path):
    passages, problems = read(written(tmp_path, "a.csv", "\r\n \r\nid;text\r\n1;a\r\n"))
    assert ([(one.text, one.line) for one in passages], problems) == ([("a", 4)], [])


def test_unpaired_surrogate_in_json_is_a_problem(tmp_path):
    _, problems = read(written(tmp_path, "a.jsonl", '{"text": "\\ud800"}'))
    assert len(problems) == 1
    assert problems[0].startswith("a.jsonl:1: is not JSON")


def test_records_give_text_id_and_kept_fields(tmp_path):
    record = {"post": {"body": "A text.", "id": 7}, "stars": 4, "tags": ["a"]}
    path = written(tmp_path, "a.jsonl", "\ufeff" + json.dumps(record) + "\n\n")
    passages, problems = read(path, field="post.body", id_field="post.id", keep=("stars", "tags"))
    assert problems == []
    assert [(one.text, one.id, one.line, one.metadata) for one in passages] == [
        ("A text.", "7", 1, '{"stars":4,"tags":["a"]}')
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_records_may_hold_numbers_that_python_writes_as_nan(tmp_path, name):
    content = json.dumps({"text": "Bees", "score": float("nan"), "n": 1})
    passages, problems = read(written(tmp_path, name, content), keep=("score", "n"))
    assert problems == []
    assert [(one.text, one.metadata) for one in passages] == [("Bees", '{"score":null,"n":1}')]


def test_kept_field_that_a_record_does_not_have_is_null(tmp_path):
    content = '{"text": "Bees", "stars": 4, "by": {"name": "B"}}\n{"text": "Cats", "by": {}}\n'
    passages, problems = read(written(tmp_path, "a.jsonl", content), keep=("stars", "by.name"))
    assert problems == []
    assert [one.metadata for one in passages] == ['{"stars":4,"by.name":"B"}', '{"stars":null,"by.name":null}']


def test_records_are_divided_only_on_request(tmp_path):
    path = written(tmp_path, "a.jsonl", json.dumps({"text": "Some words in a sentence. " * 100}))
    assert [passage.id for passage in read(path)[0]] == [f"{path.as_posix()}#1"]
    divided, _ = read(path, chunk_tokens=100)
    assert len(divided) > 4
    assert [passage.id for passage in divided[:2]] == [f"{path.as_posix()}#1.1", f"{path.as_posix()}#1.2"]


@pytest.mark.parametrize(
    ("name", "delimiter"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.csv", "|"), ("a.tsv", "\t")]
)
def test_csv_fields_may_hold_line_breaks_and_quotes(tmp_path, name, delimiter):
    rows = ["id,text".replace(",", delimiter), f'1{delimiter}"two\nlines, ""quoted"""', f"2{delimiter}plain"]
    passages, problems = read(written(tmp_path, name, "\n".join(rows)), id_field="id")
    assert problems == []
    assert [(one.text, one.id, one.line) for one in passages] == [
        ('two\nlines, "quoted"', "1", 2),
        ("plain", "2", 4),
    ]


def test_parquet_reads_only_the_columns_it_needs_and_names_missing_ones(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"id": [1, 2], "text": ["a", None], "n": [0.5, 1.5]}), path)
    passages, problems = read(path, id_field="id", keep=("n",))
    assert [(one.text, one.id, one.metadata, one.line) for one in passages] == [("a", "1", '{"n":0.5}', None)]
    assert problems == ["a.parquet#2: field 'text' is null, not a text"]
    assert read(path, field="body")[1] == ["a.parquet: has no column body; it has id, text, n; see --field"]
    assert read(path, id_field="key")[1] == ["a.parquet: has no column key; it has id, text, n"]
    assert read(path, id_field="n")[1][0] == "a.parquet#1: field 'n' is a decimal number, not an ID"


def test_parquet_column_may_have_a_dot_in_its_name_or_hold_fields(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a.b": ["one"], "c": [{"d": "two"}]}), path)
    assert [passage.text for passage in read(path, field="a.b")[0]] == ["one"]
    assert [passage.text for passage in read(path, field="c.d")[0]] == ["two"]


def test_parquet_value_that_python_cannot_hold_is_a_problem(tmp_path):
    invalid = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": invalid}), tmp_path / "a.parquet")
    passages, problems = read(tmp_path / "a.parquet")
    assert (passages, len(problems)) == ([], 1)
    assert problems[0].startswith("a.parquet: has a value after row 0 that cannot be read")


def parquet(*texts):
    """Return a Parquet file with these texts."""
    out = io.BytesIO()
    pq.write_table(pa.table({"text": list(texts)}), out)
    return out.getvalue()


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="Windows has no files for open pipes")
@pytest.mark.parametrize(("kind", "content"), [("parquet", parquet), ("pdf", pdf)])
def test_pipe_in_the_place_of_a_file_is_read_in_formats_that_need_a_whole_file(kind, content):
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb") as file:
        file.write(content("Text."))
        file.close()
        passages, problems = read(Path(f"/dev/fd/{reading}"), format=kind)
    assert ([passage.text for passage in passages], problems) == (["Text."], [])


def test_pdf_pages_are_numbered_and_empty_pages_are_left_out(tmp_path):
    path = written(tmp_path, "a.pdf", pdf("First page", "", "Third page"))
    passages, problems = read(path)
    assert problems == []
    assert [(one.text, one.page) for one in passages] == [("First page", 1), ("Third page", 3)]
    assert passages[1].place == f"{path.as_posix()} page 3"


def test_html_keeps_paragraphs_and_leaves_out_scripts():
    html = """<html><head><title>A &amp; B</title><style>p {}</style></head><body><h1>Head</h1>
    <p>One <b>bold</b>   word<br>and a line.</p><script>x</script><ul><li>item</li><li>more</li></ul>
    <table><tr><td>a</td><td>b</td></tr></table><pre>x
  y</pre></body></html>"""
    assert html_to_text(html) == ("A & B\n\nHead\n\nOne bold word\nand a line.\n\nitem\nmore\n\na b\n\nx\n  y")


def test_time_for_html_is_linear_in_a_run_of_blanks():
    blanks = " " * 300_000  # took minutes when it grew with the square
    assert html_to_text(f"<pre>x{blanks}y</pre>") == f"x{blanks}y"


PAGE_IN_LATIN_1 = '<html><head><meta charset="ISO-8859-1"></head><p>Größe</p>'.encode("latin-1")


@pytest.mark.parametrize(
    ("content", "options", "text"),
    [
        (PAGE_IN_LATIN_1, {}, "Größe"),
        (PAGE_IN_LATIN_1, {"encoding": "cp1250"}, "Größe"),  # as the option says: the same letters
        (b'<?xml version="1.0" encoding="windows-1251"?><p>\xc4\xe0</p>', {}, "Да"),
        ('<meta charset="latin-1"><p>Größe</p>'.encode(), {}, "Größe"),  # it is UTF-8 all the same
    ],
)
def test_html_is_read_in_the_encoding_that_it_declares_if_it_is_no_utf_8(tmp_path, content, options, text):
    passages, problems = read(written(tmp_path, "a.html", content), **options)
    assert ([one.text for one in passages], problems) == ([text], [])


def test_given_format_counts_for_named_files_and_for_unknown_names_in_folders(tmp_path):
    for name in ("a.md", "b.txt", "c.xyz"):
        written(tmp_path, name, "Text.")
    named, _, _ = find_sources([str(tmp_path / "a.md"), str(tmp_path / "c.xyz")], given_format="csv")
    assert [source.format for source in named] == ["csv", "csv"]
    found, _, _ = find_sources([str(tmp_path)], given_format="csv", include=["*"])
    assert [source.format for source in found] == ["markdown", "text", "csv"]


@pytest.mark.parametrize("declared", [b'<meta charset="nonsense">', b""])
def test_html_without_a_known_encoding_is_a_problem(tmp_path, declared):
    _, problems = read(written(tmp_path, "a.html", declared + b"\n<p>Gr\xf6"))
    assert problems == ["a.html:2: is not utf-8 (byte 0xf6); see --encoding"]


def test_file_that_is_named_twice_is_read_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, "a.md", "Text.")
    sources, _, _ = find_sources(["a.md", "./a.md", str(tmp_path / "a.md"), "."])
    assert [source.name for source in sources] == ["a.md"]


def test_folders_are_read_in_order_without_hidden_files_and_own_outputs(tmp_path):
    for name in (
        "b/z.md",
        "b/a.txt",
        "a.md",
        ".hidden/x.md",
        ".secret.md",
        "c.png",
        "d.py",
        "e.json",
        "old.jsonl",
        "e.npy",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("Text.")
    for name in ("old.jsonl", "e.npy", "f.lance"):
        (tmp_path / f"{name}.manifest.json").write_text("{}")
    for name in ("e.passages.jsonl", "e.npy.index", "e.npy.index.7.unfinished", ".manifest.json"):
        (tmp_path / name).write_text("{}")
    for name in ("x.parquet.unfinished", "f.lance"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "output.jsonl").write_text("{}")
    sources, problems, left_out = find_sources([str(tmp_path), str(tmp_path / "a.md")])
    assert [source.path.relative_to(tmp_path).as_posix() for source in sources] == ["a.md", "b/a.txt", "b/z.md"]
    assert problems == []
    assert left_out == {".png": 1, ".py": 1, ".json": 1}
    only, _, _ = find_sources([str(tmp_path)], include=["*.py"])
    assert [(source.path.name, source.format) for source in only] == [("d.py", None)]
    every, _, _ = find_sources([str(tmp_path)], include=["*"])
    assert [source.path.name for source in every] == ["a.md", "c.png", "d.py", "e.json", "a.txt", "z.md"]


def test_manifest_of_another_program_hides_neither_a_folder_nor_a_file(tmp_path):
    for name in ("app.manifest.json", "app/a.txt", "notes.md.manifest.json", "notes.md"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    sources, _, left_out = find_sources([str(tmp_path)])
    assert [source.path.relative_to(tmp_path).as_posix() for source in sources] == ["notes.md", "app/a.txt"]
    assert left_out == {".json": 2}


def test_folder_without_a_readable_file_is_a_problem(tmp_path):
    (tmp_path / "empty").mkdir()
    _, problems, _ = find_sources([str(tmp_path / "empty")])
    assert [problem.reason for problem in problems] == ["the folder holds no file of a known format"]
    _, problems, _ = find_sources([str(tmp_path / "empty")], include=["*.py"])
    assert [problem.reason for problem in problems] == ["the folder holds no file that --include names"]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes any bytes as a name")
def test_name_that_is_not_utf_8_is_escaped(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.txt")
    path.write_text("Coffee.")
    sources, problems, _ = find_sources([str(tmp_path)])
    assert ([source.name for source in sources], problems) == ([f"{tmp_path.as_posix()}/caf\\xe9.txt"], [])
    assert [passage.id.encode() for passage in read(path)[0]] == [f"{tmp_path.as_posix()}/caf\\xe9.txt#1".encode()]
    for kind, content in (("parquet", parquet("Tea.")), ("pdf", pdf("Tea."))):
        other = tmp_path / os.fsdecode(b"th\xe9." + kind.encode())
        other.write_bytes(content)
        passages, problems = read(other)
        assert ([passage.text for passage in passages], problems) == (["Tea."], [])


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_links_to_folders_are_counted_and_a_dangling_link_is_a_problem(tmp_path):
    (tmp_path / "a.md").write_text("Text.")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    sources, problems, left_out = find_sources([str(tmp_path)])
    assert [source.path.name for source in sources] == ["a.md"]
    assert [str(problem) for problem in problems] == [f"{tmp_path.as_posix()}/gone.md: the link leads to no file"]
    assert left_out == {"linked folder": 1}


def test_folder_that_cannot_be_read_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "a.md").write_text("Text.")
    (tmp_path / "secret").mkdir()
    scandir = os.scandir

    def refusing(path):  # root may read every folder
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    sources, problems, _ = find_sources([str(tmp_path)])
    assert len(sources) == 1
    assert [str(problem) for problem in problems] == [f"{tmp_path.as_posix()}/secret: Permission denied"]


def test_missing_input_ends_the_command(tmp_path):
    with pytest.raises(CommandError, match=r"gone\.txt: There is no such file"):
        find_sources([str(tmp_path / "gone.txt")])
    with pytest.raises(CommandError, match="An input has an empty name"):
        find_sources([""])


def test_utf_16_without_its_mark_is_a_problem(tmp_path):
    assert read(written(tmp_path, "a.txt", "text"), encoding="utf-16")[1][0].startswith("a.txt:1: is not utf-16")


def test_compressed_file_is_binary(tmp_path):
    path = written(tmp_path, "a.txt", gzip.compress(b"text" * 9))
    assert read(path)[1] == ["a.txt: is a binary file"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk_tokens": 8}, "--chunk-tokens"),
        ({"chunk_overlap": 300}, "--chunk-overlap"),
        ({"chunk_tokens": 100, "chunk_overlap": -1}, "--chunk-overlap"),
        ({"encoding": "utf-99"}, "--encoding"),
        ({"encoding": "base64"}, "--encoding"),
        ({"encoding": "idna"}, "--encoding"),
    ],
)
def test_invalid_option_is_named(options, words):
    with pytest.raises(CommandError, match=words):
        SourceReader(InputOptions(**options))
