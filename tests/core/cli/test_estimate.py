"""``nanogpt estimate``: the same figures as the public functions, and nothing sent."""

import json

import pytest

from nanogpt_core import MODELS, count_tokens

TEXTS = [f"Text number {number}. " * (1 + number % 40) for number in range(300)]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*TEXTS, TEXTS[0]]))
    return path


def test_figures_are_those_of_the_embedder_for_every_model(nanogpt, corpus):
    result = nanogpt("estimate", corpus, "--model", "all", "--json")
    assert (result.code, result.err) == (0, "")
    found = json.loads(result.out)
    assert (found["passages"], found["texts"], found["files"]) == (301, 300, 1)
    assert [row["model"] for row in found["models"]] == list(MODELS)
    for row in found["models"]:
        assert row["tokens"] == sum(count_tokens(text, row["model"]) for text in TEXTS)
        assert row["usd"] == pytest.approx(row["tokens"] * MODELS[row["model"]].usd_per_million_tokens / 1e6)


def test_requests_are_those_that_embed_sends(nanogpt, corpus, service, tmp_path):
    for model in ("text-embedding-3-small", "Qwen/Qwen3-Embedding-0.6B"):
        row = json.loads(nanogpt("estimate", corpus, "-m", model, "--json").out)["models"][0]
        service.clear()
        assert nanogpt("embed", corpus, "-o", tmp_path / "out.npy", "-m", model, "--overwrite", "-q").code == 0
        assert len(service.requests) == row["requests"]


def test_table_is_sorted_by_price_and_explains_its_figures(nanogpt, corpus):
    result = nanogpt("estimate", corpus, "-m", "text-embedding-3-large", "-m", "BAAI/bge-large-en-v1.5")
    rows = [line for line in result.out.splitlines() if line.startswith(("text-", "BAAI"))]
    assert [row.split()[0] for row in rows] == ["BAAI/bge-large-en-v1.5", "text-embedding-3-large"]
    assert rows[0].split()[2].startswith("~")
    assert "301 passages, 1 repetition among them" in result.out
    assert "high estimate" in result.out


def test_unknown_model_gives_a_warning_with_near_names_and_no_price(nanogpt, corpus):
    result = nanogpt("estimate", corpus, "-m", "text-embeding-3-small")
    assert result.code == 0
    assert "Near names: text-embedding-3-small" in result.err
    assert "unknown" in result.out


def test_model_beside_all_is_estimated_too(nanogpt, corpus):
    result = nanogpt("estimate", corpus, "-m", "my/model", "-m", "all", "-m", "BAAI/bge-m3", "--json")
    assert [one["model"] for one in json.loads(result.out)["models"]] == ["my/model", *MODELS]


def test_text_over_a_limit_is_counted(nanogpt, tmp_path):
    (tmp_path / "long.txt").write_text("many words " * 2000)
    row = json.loads(nanogpt("estimate", tmp_path, "-m", "BAAI/bge-large-en-v1.5", "--chunk-tokens", 0, "--json").out)
    assert row["models"][0]["too_long"] == 1


def test_bad_input_is_code_3(nanogpt, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{")
    assert nanogpt("estimate", tmp_path).code == 3


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_table_fits_the_terminal_and_no_number_is_divided(nanogpt, corpus, monkeypatch, columns):
    row = json.loads(nanogpt("estimate", corpus, "-m", "BAAI/bge-m3", "--json").out)["models"][0]
    monkeypatch.setenv("COLUMNS", str(columns))
    out = nanogpt("estimate", corpus, "-m", "BAAI/bge-m3").out
    assert max(map(len, out.splitlines())) <= columns
    assert f"~{row['tokens']:,}" in out.split()
    assert ("1,024" in out.split()) is (columns > 40)


@pytest.mark.parametrize("columns", ["0", "-5", "many"])
def test_table_is_printed_for_any_value_of_columns(nanogpt, tmp_path, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    (tmp_path / "a.txt").write_text("Text.")
    assert "text-embedding-3-small" in nanogpt("estimate", tmp_path / "a.txt").out
