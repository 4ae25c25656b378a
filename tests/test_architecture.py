"""The order of the house: which module may import which, what is public, and that it is documented."""

import ast
import copy
import importlib
import inspect
import pickle
from functools import cache
from pathlib import Path

import pytest

PLUGINS = ("langchain_nanogpt", "llama_index_nanogpt")
PACKAGES = ("nanogpt_core", *PLUGINS)
ROOT = Path(importlib.import_module("nanogpt_core").__file__).parents[1]
ERRORS = "nanogpt_core.errors"
FORKING = "nanogpt_core._runtime.fork"
# Import nothing of ours but the errors, and the lock that survives a fork.
LEAVES = ["nanogpt_core.models.catalog", "nanogpt_core.http.endpoint", "nanogpt_core.embeddings.usage"]
# No input and output: none of them reaches a module that does.
PURE = [
    "nanogpt_core.embeddings.planning",
    "nanogpt_core.embeddings.response",
    "nanogpt_core.models.tokens",
    "nanogpt_core.embeddings.config",
    *LEAVES,
    ERRORS,
]
WIRE = {
    f"nanogpt_core.{name}"
    for name in (
        "http.requester",
        "http.pool",
        "http.client",
        "http.error_mapping",
        "chat.client",
        "chat.session",
        "chat.stream",
    )
}
NETWORK = {"openai", "httpx", "httpx2", "requests", "socket", "urllib.request", "http.client"}


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


@cache
def imports(module):
    """Return the modules that ``module`` imports anywhere: at its top, within functions, and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            # "from package import module" names a module; "from module import name" does not.
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() or {node.module}
    return found


def ours(module):
    return imports(module) & MODULES.keys()


def reached(module):
    found, left = set(), [module]
    while left:
        new = ours(left.pop()) - found
        found |= new
        left += new
    return found


PACKAGE_FILES = {name for name, path in MODULES.items() if path.name == "__init__.py" and "." in name}
CORE = [
    name
    for name in MODULES
    if name.startswith("nanogpt_core.") and name not in PACKAGE_FILES and not name.startswith("nanogpt_core.sandbox")
]
INSIDE = [name for name in CORE if name != "nanogpt_core.embeddings.embedder"]


def test_the_list_of_modules_is_not_empty():
    assert {
        "nanogpt_core.embeddings.embedder",
        "nanogpt_core.sandbox.server",
        "langchain_nanogpt.embeddings",
        ERRORS,
    } <= MODULES.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_make_no_circle(module):
    if module not in PACKAGES:
        assert module not in reached(module)


@pytest.mark.parametrize("module", INSIDE)
def test_only_what_is_above_imports_the_embedder(module):
    assert not ours(module) & {"nanogpt_core", "nanogpt_core.embeddings.embedder"}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("nanogpt_core")])
def test_the_core_knows_no_framework_and_no_plugin(module):
    tops = {name.partition(".")[0] for name in imports(module)}
    assert not tops & {*PLUGINS, "langchain", "langchain_core", "langchain_openai", "llama_index"}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(PLUGINS)])
def test_a_plugin_knows_neither_the_other_plugin_nor_the_others_framework(module):
    plugin = module.partition(".")[0]
    foreign = {"langchain_nanogpt": ("llama_index",), "llama_index_nanogpt": ("langchain", "langgraph")}[plugin]
    assert not [name for name in imports(module) if name.startswith(foreign)]


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith(PLUGINS)])
def test_a_plugin_does_no_planning_sending_or_reading_of_its_own(module):
    inner = (
        "embeddings.response",
        "embeddings.pipeline",
        "embeddings.dispatch",
        "embeddings.runner",
        "embeddings.results",
        "http.requester",
        "http.error_mapping",
        "models.tokens",
        "embeddings.progress",
    )
    assert not ours(module) & {f"nanogpt_core.{name}" for name in inner}


def test_errors_import_nothing_of_ours():
    assert ours(ERRORS) == set()


@pytest.mark.parametrize("module", LEAVES)
def test_leaves_import_nothing_of_ours_but_errors(module):
    assert ours(module) <= {ERRORS, FORKING}


@pytest.mark.parametrize("module", PURE)
def test_what_is_pure_reaches_no_network(module):
    assert not (reached(module) & WIRE)
    for name in {module, *reached(module)}:
        assert not imports(name) & NETWORK


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("nanogpt_core.sandbox")])
def test_the_sandbox_shares_the_catalogue_and_nothing_else(module):
    outside = {name for name in ours(module) if not name.startswith("nanogpt_core.sandbox")}
    assert outside <= {"nanogpt_core.models.catalog", ERRORS}


@pytest.mark.parametrize("module", CORE)
def test_nothing_inside_needs_the_sandbox(module):
    assert not [name for name in ours(module) if name.startswith("nanogpt_core.sandbox")]


def test_only_the_modules_of_the_wire_know_the_sdk():
    assert {name for name in CORE if "openai" in imports(name)} <= WIRE


def test_only_the_reply_and_the_live_list_read_json_of_the_service():
    readers = {name for name in CORE if imports(name) & {"jiter", "json"}}
    assert readers == {
        f"nanogpt_core.{name}"
        for name in (
            "embeddings.response",
            "chat.response",
            "models.listing",
            "models.chat_listing",
            "http.error_mapping",
        )
    }


# --- what is public ---

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


def test_a_name_that_is_not_there_is_an_attribute_error():
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


@pytest.mark.parametrize("module", [name for name in CORE if name not in PACKAGES])
def test_each_module_lists_what_others_may_use(module):
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    listed = set(importlib.import_module(module).__all__)
    defined = {
        node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))
    }
    public = {name for name in defined if not name.startswith("_")}
    assert listed >= public
    assert not {name for name in listed if name.startswith("_")}


def test_names_that_others_import_are_listed():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in CORE:
                listed = importlib.import_module(node.module).__all__
                assert {alias.name for alias in node.names} <= set(listed), f"{module} imports from {node.module}"


def test_every_error_is_of_one_tree_and_in_the_trees_picture():
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
    importlib.import_module("nanogpt_core.embeddings.response")
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
def test_every_error_comes_back_from_a_pickle_as_it_was(kind, again):
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
