"""What LangChain's tests share. Without LangChain they are skipped, and the rest of the suite still runs."""

from importlib.util import find_spec

import pytest

PARTS = ("langchain", "langchain_core", "langchain_openai", "langchain_tests", "starlette", "uvicorn")
MISSING = [name for name in PARTS if find_spec(name) is None]

# What OpenAI's SDK and LangChain's package for it read from the environment. None of it is meant for NanoGPT.
FOREIGN = {
    "OPENAI_API_KEY": "sk-leaked",
    "OPENAI_ADMIN_KEY": "sk-leaked-admin",
    "OPENAI_ORG_ID": "org-leaked",
    "OPENAI_ORGANIZATION": "org-leaked",
    "OPENAI_PROJECT_ID": "proj-leaked",
    "OPENAI_WEBHOOK_SECRET": "hook-leaked",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/leaked",
    "OPENAI_API_BASE": "http://127.0.0.1:9/leaked",
    "OPENAI_API_VERSION": "leaked",
    "OPENAI_PROXY": "http://127.0.0.1:9/leaked",
    "OPENAI_CUSTOM_HEADERS": "X-Leaked: leaked",
}


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


@pytest.fixture(params=["sync", "async"])
def call(request):
    """Call a method by its sync name, once as it is and once as its async twin."""

    async def run(target, method, *args, **kwargs):
        if request.param == "sync":
            return getattr(target, method)(*args, **kwargs)
        return await getattr(target, f"a{method}")(*args, **kwargs)

    run.kind = request.param
    return run


@pytest.fixture
def foreign_environment(monkeypatch):
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def nothing_leaked(sandbox):
    """Check that requests were sent, with our key and with nothing of the foreign environment."""

    def check(count):
        assert len(sandbox.requests) == count
        for request in sandbox.requests:
            assert request.headers["authorization"] == f"Bearer {sandbox.api_key}"
            assert "leaked" not in f"{request.headers} {request.body} {request.path}".lower()
            assert not [name for name in request.headers if name.startswith("openai-")]

    return check
