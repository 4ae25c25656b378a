"""`nanogpt balance` and `nanogpt usage`."""

import json

import pytest

pytest.importorskip("cyclopts", reason="the cli extra is not installed")

from nanogpt_core import Embedder
from nanogpt_core.cli.entry import run


@pytest.fixture
def account(fresh_sandbox, monkeypatch):
    """A sandbox with a key of its own, in the environment."""
    monkeypatch.setenv("NANOGPT_API_KEY", fresh_sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", fresh_sandbox.base_url)
    return fresh_sandbox


@pytest.mark.usefixtures("account")
def test_balance_is_printed_in_dollars_or_as_the_reply(capsys):
    assert run(["balance"]) == 0
    assert capsys.readouterr().out == "$10.00\n"
    assert run(["balance", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"usd_balance": "10.00000000", "nano_balance": "0.00000000"}


@pytest.mark.usefixtures("account")
def test_usage_is_printed_by_model_by_day_or_as_the_reply(capsys):
    Embedder("BAAI/bge-m3").embed(["one text", "another"])
    Embedder().embed(["a third text"])
    assert run(["usage"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows[2:5]] == [["BAAI/bge-m3", "1"], ["text-embedding-3-small", "1"], ["total", "2"]]
    assert run(["usage", "--json"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["totals"]["requests"] == 2
    assert run(["usage", "--by", "day"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[2:4]] == [reply["byDay"][0]["date"], "total"]


@pytest.mark.usefixtures("account")
def test_table_of_usage_fits_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    Embedder().embed([f"text {number}" for number in range(700)])
    assert run(["usage", "--json"]) == 0
    totals = json.loads(capsys.readouterr().out)["totals"]
    assert run(["usage"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    row = next(line.split() for line in lines if line.startswith("total"))
    assert row == ["total", str(totals["requests"]), f"{totals['inputTokens']:,}", "0", f"{totals['netCostUsd']:.6f}"]


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("words", "days"),
    [
        (["--from", "2026-05-01", "--to", "2026-05-31"], ("2026-05-01", "2026-05-31")),
        (["--to", "2026-05-31"], ("2026-05-02", "2026-05-31")),
    ],
)
def test_usage_of_a_range_of_days(capsys, words, days):
    assert run(["usage", *words, "--json"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert (reply["from"], reply["to"]) == days


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--from", "May"], "--from must be a day such as 2026-05-31, not 'May'."),
        (["--to", "2026-13-01"], "--to must be a day"),
        (["--to", "0001-01-05"], "There are no 29 days before 0001-01-05. Pass --from."),
        (["--from", "2026-05-02", "--to", "2026-05-01"], "is before the first"),
        (["--from", "2020-05-02", "--to", "2026-05-01"], "more than 366 days"),
    ],
)
def test_impossible_days_are_one_line_and_send_nothing(account, capsys, words, message):
    assert run(["usage", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert account.requests == []


@pytest.mark.parametrize("command", ["balance", "usage"])
def test_refused_or_missing_key_is_one_line_without_the_key(account, capsys, monkeypatch, command):
    monkeypatch.setenv("NANOGPT_API_KEY", "sk-nano-wrong")
    assert run([command]) == 4
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "sk-nano-wrong" not in err
    monkeypatch.delenv("NANOGPT_API_KEY")
    assert run([command]) == 2
    assert "NANOGPT_API_KEY" in capsys.readouterr().err
    assert len(account.requests) == 1
