"""Secrets: sources and checks of the key; no repr and no pickle shows it."""

import copy
import pickle
import traceback

import pytest
from pydantic import SecretBytes, SecretStr

from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.http.secrets import Secret, resolve_key

KEY = "sk-nano-0d9f6c5e-very-secret"


def told(error):
    """Return the traceback of an error as text."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(vars(error)) + str(error.args)


# --- key ---


@pytest.mark.parametrize("given_key", [KEY, SecretStr(KEY), Secret(KEY), f"  {KEY}\n", f"{KEY}\r\n"], ids=type)
def test_key_is_str_or_secret_and_is_stripped(given_key):
    assert resolve_key(given_key).get_secret_value() == KEY


def test_key_argument_takes_precedence_over_variables(monkeypatch):
    monkeypatch.setenv("NANO_GPT_API_KEY", "third")
    assert resolve_key(None).get_secret_value() == "third"
    monkeypatch.setenv("NANOGPT_API_KEY", " second\n")
    assert resolve_key(None).get_secret_value() == "second"
    assert resolve_key("first").get_secret_value() == "first"
    monkeypatch.setenv("NANOGPT_API_KEY", "  ")
    assert resolve_key(None).get_secret_value() == "third"


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "NANO_API_KEY"])
def test_other_variables_are_not_used_as_key(monkeypatch, variable):
    monkeypatch.setenv(variable, KEY)
    with pytest.raises(ConfigurationError, match="NANOGPT_API_KEY"):
        resolve_key(None)


@pytest.mark.parametrize("key", ["", " ", "\n", SecretStr(""), SecretStr(" ")], ids=repr)
def test_empty_key_is_refused_even_if_the_environment_has_one(monkeypatch, key):
    monkeypatch.setenv("NANOGPT_API_KEY", KEY)
    with pytest.raises(ConfigurationError, match="empty") as caught:
        resolve_key(key)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "inside", ["\n", "\r\n", " ", "\t", "\x00", "\x7f", "\u00e9", "\u2028", "\ud800", "\u200b", "\x1b"], ids=ascii
)
def test_key_invalid_in_a_header_is_refused_and_not_shown(monkeypatch, inside):
    key = f"sk-nano-left{inside}right-secret"
    with pytest.raises(ConfigurationError) as caught:
        resolve_key(key)
    assert "left" not in told(caught.value)
    assert "right" not in told(caught.value)
    if inside not in "\x00\ud800":
        monkeypatch.setenv("NANOGPT_API_KEY", key)
        with pytest.raises(ConfigurationError) as caught:
            resolve_key(None)
        assert "right" not in told(caught.value)


@pytest.mark.parametrize(
    "key", ["${NANOGPT_API_KEY}", "$NANOGPT_API_KEY", "{{key}}", "%NANOGPT_API_KEY%", "<your-key>"]
)
def test_placeholder_in_place_of_a_key_is_refused(key):
    with pytest.raises(ConfigurationError, match="api_key is a placeholder"):
        resolve_key(key)


@pytest.mark.parametrize("key", [f'"{KEY}"', f"'{KEY}'", f'"{KEY}'], ids=["double", "single", "one"])
def test_key_in_quotes_is_refused_and_not_shown(monkeypatch, key):
    with pytest.raises(ConfigurationError, match="api_key is in quotes") as caught:
        resolve_key(key)
    assert KEY not in told(caught.value)
    monkeypatch.setenv("NANO_GPT_API_KEY", key)
    with pytest.raises(ConfigurationError, match="NANO_GPT_API_KEY is in quotes"):
        resolve_key(None)


@pytest.mark.parametrize(
    "key", [5, b"sk-nano-bytes", True, ["sk-nano-list"], object()], ids=["int", "bytes", "bool", "list", "object"]
)
def test_key_of_wrong_type_is_refused_and_not_shown(key):
    with pytest.raises(InvalidTypeError) as caught:
        resolve_key(key)
    assert isinstance(caught.value, TypeError)
    assert "sk-nano" not in told(caught.value)


def test_secret_of_bytes_is_refused_and_not_shown():
    with pytest.raises(InvalidTypeError) as caught:
        resolve_key(SecretBytes(KEY.encode()))
    assert KEY not in told(caught.value)


# --- secrets are not shown ---


def test_secret_is_in_no_repr_or_format():
    secret = Secret(KEY)
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r}", "%s" % secret, repr([secret]), repr({"k": secret})]  # noqa: UP031
    assert not any(KEY in text for text in shown)
    assert not hasattr(secret, "__dict__")
    with pytest.raises(TypeError):
        hash(secret)


def test_secrets_compare_by_value_and_only_to_secrets():
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_has_no_key_and_reads_it_from_the_environment(monkeypatch, protocol):
    data = pickle.dumps(Secret(KEY), protocol)
    assert KEY.encode() not in data
    monkeypatch.setenv("NANOGPT_API_KEY", "from-the-environment")
    assert pickle.loads(data).get_secret_value() == "from-the-environment"
    monkeypatch.delenv("NANOGPT_API_KEY")
    without = pickle.loads(data)
    with pytest.raises(ConfigurationError, match="NANOGPT_API_KEY"):
        without.get_secret_value()


def test_copies_in_the_same_process_keep_the_key():
    assert copy.copy(Secret(KEY)).get_secret_value() == KEY
    assert copy.deepcopy([Secret(KEY)])[0].get_secret_value() == KEY
