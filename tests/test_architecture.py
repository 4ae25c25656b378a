"""Public API and its documentation. Import-linter (pyproject.toml) checks the imports between modules."""

import ast
import copy
import importlib
import inspect
import pickle
import re
from pathlib import Path

import pytest

PLUGINS = ("langchain_nanogpt", "llama_index_nanogpt")
PACKAGES = ("nanogpt_core", *PLUGINS)
ROOT = Path(importlib.import_module("nanogpt_core").__file__).parents[1]
ERRORS = "nanogpt_core.errors"


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}
# The README, and every user, relies on these.
PUBLIC = {
    "nanogpt_core": {
        "Embedder",
        "Estimate",
        "MODELS",
        "ModelInfo",
        "NanoGPTError",
        "Sandbox",
        "Usage",
        "get_model",
        "list_models",
    },
    "langchain_nanogpt": {"ChatNanoGPT", "NanoGPTEmbeddings"},
    "llama_index_nanogpt": {"NanoGPT", "NanoGPTEmbedding"},
}
NEEDS = {"langchain_nanogpt": "langchain_openai", "llama_index_nanogpt": "llama_index.llms.openai_like"}


@pytest.fixture(params=PACKAGES)
def package(request):
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param], exc_type=ImportError)
    return importlib.import_module(request.param)


def test_each_package_lists_its_public_names(package):
    assert set(package.__all__) >= PUBLIC[package.__name__]
    assert len(set(package.__all__)) == len(package.__all__)
    for name in package.__all__:
        assert getattr(package, name) is not None
        assert name in dir(package)
    assert package.__doc__


def test_unknown_name_is_an_attribute_error():
    import nanogpt_core

    with pytest.raises(AttributeError, match="Embeder"):
        nanogpt_core.Embeder  # noqa: B018


def test_each_public_name_is_documented(package):
    for name in package.__all__:
        value = getattr(package, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        assert value.__doc__, name
        for member, inner in vars(value).items() if inspect.isclass(value) else ():
            # Frameworks put members of their own into classes that extend theirs.
            home = getattr(getattr(inner, "fget", inner), "__module__", "") or ""
            if not member.startswith("_") and home.startswith(PACKAGES) and not inspect.isclass(inner):
                assert inspect.getdoc(getattr(value, member)), f"{name}.{member}"


def test_each_module_has_a_docstring():
    for module, path in MODULES.items():
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), module


def test_methods_that_the_architecture_page_names_exist():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    methods = {}
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                methods.setdefault(node.name, set()).update(getattr(part, "name", "") for part in node.body)
    others = {("VectorStoreIndex", "from_documents"), ("EmbeddedBatch", "start")}  # LlamaIndex's, and an attribute
    said = set(re.findall(r"`(_?[A-Z]\w+)\.(\w+)", page)) - others
    assert len(said) > 50
    assert [f"{kind}.{name}" for kind, name in sorted(said) if name not in methods.get(kind, ())] == []


def test_private_names_are_imported_by_no_other_module():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(PACKAGES):
                private = [alias.name for alias in node.names if alias.name.startswith("_")]
                assert not private, f"{module} imports {private} from {node.module}"


def test_every_error_is_a_nanogpt_error_and_in_the_documented_tree():
    errors = importlib.import_module(ERRORS)
    for name in errors.__all__:
        kind = getattr(errors, name)
        if not inspect.isclass(kind):
            continue
        assert issubclass(kind, errors.NanoGPTError)
        assert f" {name} " in errors.__doc__.replace("\n", " ")
        assert kind.__doc__
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.InvalidInputError, ValueError)
    assert issubclass(errors.InvalidTypeError, TypeError)


def every_error():
    errors = importlib.import_module(ERRORS)
    left = [errors.NanoGPTError]
    while left:
        kind = left.pop()
        left += kind.__subclasses__()
        if kind.__module__.startswith(PACKAGES) and not kind.__name__.startswith("_"):
            yield kind


@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
@pytest.mark.parametrize(
    "kind", sorted(set(every_error()), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__
)
def test_every_error_is_unchanged_by_pickle_and_copy(kind, again):
    # multiprocessing.Pool waits for ever for an error that cannot be read back.
    given = {
        "status": 418,
        "code": "teapot",
        "width": 7,
        "positions": (3, 4),
        "request_id": "req-7",
        "remedy": "Do this.",
    }
    takes = inspect.signature(kind.__init__).parameters
    error = kind("This is wrong.", **{name: value for name, value in given.items() if name in takes})
    twin = again(error)
    assert type(twin) is kind
    assert str(twin) == str(error) == "This is wrong. Do this."
    assert vars(twin) == vars(error)
