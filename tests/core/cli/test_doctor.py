"""`nanogpt doctor`: each check finds its problem, names a remedy, and shows no secret."""

import json
import sqlite3

import pytest

pytest.importorskip("cyclopts", reason="the cli extra is not installed")

from nanogpt_core import Embedder
from nanogpt_core.cli.entry import run


@pytest.fixture
def doctor(sandbox, monkeypatch, capsys):
    """Return a function that runs the command in a working environment, and returns exit code and findings."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)

    def call(*words):
        code = run(["doctor", *words, "--json"])
        out, err = capsys.readouterr()
        assert err == ""
        return code, {finding["check"]: finding for finding in json.loads(out)}

    return call


def test_working_environment_passes_with_two_free_requests(doctor, sandbox):
    code, findings = doctor()
    assert code == 0
    assert list(findings) == [
        "versions", "key", "address", "proxy", "certificates", "token counts", "rate", "service", "account",
    ]  # fmt: skip
    assert {finding["status"] for finding in findings.values()} == {"ok"}
    assert "nanogpt-rag " in findings["versions"]["message"]
    assert f"{sandbox.base_url} (NANOGPT_BASE_URL)" in findings["address"]["message"]
    assert "$10.00" in findings["account"]["message"]
    assert [request.path for request in sandbox.requests] == ["/api/v1/embedding-models", "/api/check-balance"]


@pytest.mark.usefixtures("doctor")
def test_output_never_shows_the_key_or_a_proxys_password(sandbox, monkeypatch, capsys):
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter2@127.0.0.1:9")
    for words in ([], ["--offline", "--base-url", "https://nano.invalid/api/v1"]):
        run(["doctor", *words])
        out = capsys.readouterr().out
        assert sandbox.api_key not in out
        assert "hunter2" not in out
    assert "HTTPS_PROXY=http://**********@127.0.0.1:9" in out


def test_offline_sends_nothing(doctor, sandbox):
    code, findings = doctor("--offline")
    assert (code, sandbox.requests) == (0, [])
    assert findings["service"]["message"] == "Not asked."


@pytest.mark.parametrize(
    ("variables", "check", "message"),
    [
        ({"NANOGPT_API_KEY": ""}, "key", "No API key"),
        ({"NANOGPT_API_KEY": "two words"}, "key", "a blank"),
        ({"NANOGPT_API_KEY": "sk-nano-wrong"}, "account", "401"),
        ({"NANOGPT_BASE_URL": "nano-gpt.com"}, "address", "not an http(s) URL"),
        ({"NANOGPT_BASE_URL": "http://127.0.0.1:9/api/v1"}, "service", "127.0.0.1:9"),
        ({"NANOGPT_BASE_URL": "https://nano.invalid/api/v1", "HTTPS_PROXY": "foo://x:1"}, "proxy", "unknown scheme"),
        ({"NANOGPT_BASE_URL": "https://nano.invalid/api/v1", "SSL_CERT_DIR": "/none"}, "certificates", "not a folder"),
    ],
)
def test_problem_is_found_and_named(doctor, monkeypatch, variables, check, message):
    from nanogpt_core.http.environment import tls_context

    tls_context.cache_clear()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, findings = doctor()
    assert code == 1
    assert [name for name, finding in findings.items() if finding["status"] == "FAIL"] == [check]
    assert message in findings[check]["message"]
    assert findings[check]["remedy"]


@pytest.mark.parametrize(
    ("variables", "check", "message"),
    [
        ({"NANO_GPT_API_KEY": "sk-nano-other"}, "key", "hold different keys; NANOGPT_API_KEY is used"),
        ({"REQUESTS_CA_BUNDLE": "/x.pem"}, "certificates", "REQUESTS_CA_BUNDLE is set, but not used here"),
    ],
)
def test_doubtful_setting_is_a_note(doctor, monkeypatch, variables, check, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    code, findings = doctor("--offline", "--base-url", "https://nano.invalid/api/v1")
    assert code == 0
    assert findings[check]["status"] == "note"
    assert message in findings[check]["message"]


def test_missing_vocabulary_of_tiktoken_is_a_note(doctor, monkeypatch, tmp_path):
    from nanogpt_core.models.tokens import load_encoding

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("tiktoken.registry.ENCODINGS", {})
    load_encoding.cache_clear()
    try:
        code, findings = doctor("--offline")
    finally:
        load_encoding.cache_clear()
    assert code == 0
    assert findings["token counts"]["status"] == "note"
    assert "TIKTOKEN_CACHE_DIR" in findings["token counts"]["remedy"]


def test_damaged_cache_fails(doctor, tmp_path, options):
    file = tmp_path / "vectors.sqlite"
    Embedder("BAAI/bge-m3", cache=file, **options).embed(["one", "two"])
    code, findings = doctor("--cache", str(file))
    assert (code, findings["cache"]["status"]) == (0, "ok")
    with sqlite3.connect(file) as database:
        database.execute("UPDATE nanogpt_entries SET entry = substr(entry, 1, 40)")
    database.close()
    code, findings = doctor("--cache", str(file))
    assert (code, findings["cache"]["status"]) == (1, "FAIL")
    assert "2 damaged" in findings["cache"]["message"]
    code, findings = doctor("--cache", str(tmp_path / "missing.sqlite"))
    assert (code, findings["cache"]["status"]) == (1, "FAIL")


@pytest.mark.usefixtures("doctor")
def test_text_output_has_a_line_for_each_check_and_a_verdict(capsys, monkeypatch):
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:4].strip() for line in lines[:-2]] == ["ok"] * 9
    assert lines[-1] == "Nothing failed."
    monkeypatch.setenv("NANOGPT_API_KEY", "")
    assert run(["doctor", "--offline"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("FAIL key")]
    assert lines[-1] == "Failed checks: 1."
    assert "\x1b" not in "".join(lines)
