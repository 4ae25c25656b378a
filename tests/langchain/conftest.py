"""Skips the tests of the LangChain plugin if LangChain is not installed."""

from importlib.util import find_spec

import pytest

PARTS = ("langchain", "langchain_core", "langchain_openai", "langchain_tests", "starlette", "uvicorn")
MISSING = [name for name in PARTS if find_spec(name) is None]


class _SkippedModule(pytest.Module):
    reason = f"not installed: {', '.join(MISSING)}"

    def collect(self):
        pytest.skip(self.reason, allow_module_level=True)


class _WithoutKey(_SkippedModule):
    reason = "asks a real model: set NANOGPT_API_KEY, and NANOGPT_CHAT_MODEL for another than the default"


def pytest_pycollect_makemodule(module_path, parent):
    if MISSING:
        return _SkippedModule.from_parent(parent, path=module_path)
    if module_path.name.endswith("_real.py") and "api_key" not in parent.config.real_service:
        return _WithoutKey.from_parent(parent, path=module_path)
    return None
