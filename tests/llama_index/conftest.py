"""Skips the tests of the LlamaIndex plugin if LlamaIndex is not installed."""

from importlib.util import find_spec

import pytest


def _is_missing(name):
    try:
        return find_spec(name) is None
    except ModuleNotFoundError:  # a package around it is missing
        return True


MISSING = [
    name for name in ("llama_index.core", "llama_index.llms.openai_like", "starlette", "uvicorn") if _is_missing(name)
]


class _SkippedModule(pytest.Module):
    def collect(self):
        pytest.skip(f"not installed: {', '.join(MISSING)}", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    return _SkippedModule.from_parent(parent, path=module_path) if MISSING else None
