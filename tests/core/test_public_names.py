"""The public names of ``nanogpt_core``: each can be imported, and every error class is one of them."""

import importlib.metadata
import inspect

import pytest

import nanogpt_core
from nanogpt_core import MODELS, ConfigurationError, InvalidTypeError, count_tokens, errors
from nanogpt_core.models.tokens import TokenCounter

pytestmark = pytest.mark.filterwarnings("ignore:tiktoken's cl100k_base file:RuntimeWarning")


@pytest.mark.parametrize("name", nanogpt_core.__all__)
def test_public_name_can_be_imported(name):
    assert getattr(nanogpt_core, name) is not None
    assert name in dir(nanogpt_core)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Embeder'"):
        nanogpt_core.Embeder  # noqa: B018


def test_every_error_class_is_exported():
    classes = {name for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)}
    public = {name for name in classes if not name.startswith("_")}
    assert len(public) > 15
    assert public <= set(nanogpt_core.__all__)
    assert public <= set(errors.__all__)
    tree = errors.__doc__
    assert all(f" {name} " in tree for name in public)


def test_error_tree_in_the_docstring_shows_the_base_classes():
    parents, stack = {}, []
    for line in errors.__doc__.splitlines():
        name = line.lstrip(" │├└─").split(" ")[0]
        if name.endswith("Error") and line.startswith("    "):
            depth = (len(line) - len(line.lstrip(" │├└─"))) // 4
            stack = [*stack[: depth - 1], name]
            parents[name] = stack[-2] if len(stack) > 1 else None
    assert parents.pop("NanoGPTError") is None
    for name, parent in parents.items():
        base = next(c for c in getattr(errors, name).__mro__[1:] if c.__name__ in {*parents, "NanoGPTError"})
        assert base.__name__ == parent


def test_version_is_that_of_the_distribution():
    assert nanogpt_core.__version__ == importlib.metadata.version("nanogpt-rag")


@pytest.mark.parametrize("model", ["text-embedding-3-small", "BAAI/bge-m3", "some/unlisted-model"])
def test_count_tokens_takes_names_and_rows(model):
    text = "The quick brown fox. " * 50
    row = nanogpt_core.get_model(model)
    assert count_tokens(text, model) == count_tokens(text, row) == TokenCounter(row).count(text) > 100


def test_count_tokens_refuses_other_types():
    with pytest.raises(InvalidTypeError, match="text must be a str"):
        count_tokens(b"bytes", "text-embedding-3-small")
    with pytest.raises(InvalidTypeError, match="model must be a str"):
        count_tokens("text", 7)
    with pytest.raises(ConfigurationError, match="model is empty"):
        count_tokens("text", " ")
    assert count_tokens("", MODELS["text-embedding-3-small"]) == 0
