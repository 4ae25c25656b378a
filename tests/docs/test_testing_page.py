"""The tests on the page about testing pass, with the fixtures that the package registers for pytest."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import warm_process
from nanogpt_core.http.sdk import httpx

NEEDED = ("langchain_openai", "starlette", "uvicorn", "vcr")
pytestmark = pytest.mark.skipif(not all(map(warm_process.installed, NEEDED)), reason=f"needs {', '.join(NEEDED)}")

PAGE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "testing.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def test_tests_on_the_page_pass(tmp_path):
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    tests = 0
    for number, code in enumerate(SNIPPETS):
        if httpx.__name__ == "httpx" or not re.search(r"^(import respx|from pytest_httpx)", code, flags=re.MULTILINE):
            (tmp_path / f"test_snippet_{number}.py").write_text(code, encoding="utf-8")
            tests += code.count("def test_")
    names = [name for name in os.environ if not name.startswith(("NANOGPT_", "PYTEST_"))]
    # Other plugins would take seconds to load. Ours is loaded by the name of its entry point.
    environment = {**{name: os.environ[name] for name in names}, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "nanogpt", "-p", "pytest_httpx"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert f"{tests} passed" in done.stdout, done.stdout + done.stderr
    assert tests >= 7


def test_plugin_of_pytest_imports_only_the_errors_until_a_fixture_is_used():
    program = """
import sys
import pytest
before = set(sys.modules)
import nanogpt_core.pytest_plugin
print(sorted(name for name in set(sys.modules) - before if not name.startswith(("uuid", "_uuid", "platform"))))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.strip() == "['nanogpt_core', 'nanogpt_core.errors', 'nanogpt_core.pytest_plugin']"


def test_environment_is_restored_after_a_test_with_the_sandbox(nanogpt_sandbox, monkeypatch):
    assert os.environ["NANOGPT_BASE_URL"] == nanogpt_sandbox.base_url
    monkeypatch.undo()
    assert "NANOGPT_BASE_URL" not in os.environ
