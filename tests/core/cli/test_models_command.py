"""`nanogpt models`: filters, order, and differences between the service's list and the packaged one."""

import json

import pytest

pytest.importorskip("cyclopts", reason="the cli extra is not installed")

from nanogpt_core import MODELS, ModelInfo
from nanogpt_core.cli.entry import run


@pytest.fixture
def models(capsys):
    """Return a function that runs the command with `--json`, and returns its rows."""

    def call(*words):
        assert run(["models", *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return call


def names(rows):
    return [row["id"] for row in rows]


def test_address_without_a_live_list_is_refused(capsys):
    assert run(["models", "--base-url", "http://127.0.0.1:9/v1"]) == 2
    assert "--base-url has no effect without --live" in capsys.readouterr().err


def test_all_models_of_the_catalog_are_listed_in_its_order(models):
    rows = models()
    assert names(rows) == list(MODELS)
    assert rows[0]["usd_per_million_tokens"] == 0.02
    assert (rows[0]["reduces"], rows[0]["min_dimensions"], rows[0]["languages"]) == (True, 1, ["multilingual"])


@pytest.mark.parametrize(
    ("words", "keeps"),
    [
        (["QWEN"], lambda row: "qwen" in row.id.lower()),
        (["--reduces"], lambda row: row.reduces),
        (["--max-price", "0.02"], lambda row: row.usd_per_million_tokens <= 0.02),
        (["--max-dimensions", "768"], lambda row: row.dimensions is not None and row.dimensions <= 768),
        (["--min-tokens", "8192"], lambda row: (row.max_tokens or 0) >= 8192),
        (["--language", "de"], lambda row: {"de", "multilingual"} & set(row.languages)),
        (["--language", "code"], lambda row: "code" in row.languages),
    ],
)
def test_filters_keep_only_the_models_asked_for(models, words, keeps):
    kept = [name for name, row in MODELS.items() if keeps(row)]
    assert names(models(*words)) == kept
    assert 0 < len(kept) < len(MODELS)


@pytest.mark.parametrize("language", ["german", ""])
def test_language_that_is_no_code_is_refused(nanogpt, language):
    result = nanogpt("models", "--language", language)
    assert (result.code, result.out) == (2, "")
    assert result.err == f"nanogpt: --language must be a code such as de, zh or code, not {language!r}.\n"


def test_several_filters_must_all_hold(models):
    assert names(models("bge", "--language", "zh", "--min-tokens", "1000")) == ["BAAI/bge-m3"]


@pytest.mark.parametrize(
    ("sort", "key"),
    [("name", "id"), ("price", "usd_per_million_tokens"), ("dimensions", "dimensions"), ("tokens", "max_tokens")],
)
def test_sort_orders_the_rows_with_unknown_values_last(models, sort, key):
    values = [row[key] for row in models("--sort", sort)]
    known = [value.lower() if key == "id" else value for value in values if value is not None]
    assert known == sorted(known, reverse=sort == "tokens")
    assert None not in values[: len(known)]


def test_live_list_marks_new_changed_and_missing_models(models, capsys, monkeypatch):
    from nanogpt_core import Sandbox

    dearer = ModelInfo("BAAI/bge-m3", dimensions=1024, usd_per_million_tokens=0.5, max_tokens=8192)
    with Sandbox(models={"BAAI/bge-m3": dearer}, reference_page=True) as sandbox:
        monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
        rows = {row["id"]: row for row in models("--live")}
        assert run(["models", "--live", "bge-m3"]) == 0
        shown = capsys.readouterr().out
    assert rows["BAAI/bge-m3"]["difference"] == "changed"
    assert rows["BAAI/bge-m3"]["packaged"] == {"usd_per_million_tokens": 0.01}
    assert rows["jina-embeddings-v4"]["difference"] == "gone"  # the reference page does not list it
    assert rows["text-embedding-3-small"]["difference"] is None
    assert "*0.50 (0.01)" in shown
    assert "1 model, 1 of them not as in the packaged list." in shown


def test_live_list_shows_models_that_the_catalog_does_not_have(models, sandbox, monkeypatch):
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    assert [row["id"] for row in models("--live") if row["difference"] == "new"] == [
        "BAAI/bge-reranker-large",
        "sandbox-embedding-new",
    ]
    assert "authorization" not in sandbox.requests[0].headers


def test_packaged_list_sends_nothing(models, sandbox, monkeypatch):
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    assert models()
    assert sandbox.requests == []


def test_table_shows_one_line_for_each_model_without_colours(capsys):
    assert run(["models", "qwen"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith("Qwen/")]
    assert rows[0] == ["Qwen/Qwen3-Embedding-0.6B", "1,024", "32", "to", "1,024", "0.01", "32,768", "multilingual"]
    assert len(rows) == 3
    assert "\x1b" not in out
    assert run(["models", "text-embedding-ada-002"]) == 0
    assert "0.10" in capsys.readouterr().out.split()


def test_unreachable_service_is_one_line_and_exit_code_5(capsys, monkeypatch):
    monkeypatch.setenv("NANOGPT_BASE_URL", "http://127.0.0.1:9/api/v1")
    assert run(["models", "--live"]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nanogpt: ")
    assert err.count("\n") == 1
