"""Runs the unit tests of langchain-openai with ``ChatNanoGPT`` in place of ``ChatOpenAI``.

``python compat/langchain_openai_tests.py`` downloads the source of the installed version from PyPI, and runs the tests
of its chat class; options after it go to pytest. docs/compatibility.md has the results. Each test that cannot pass is
listed here with its reason. It is run all the same, and a listed test that passes is reported.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import tarfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import llama_index.core
import pytest

HOME = Path(__file__).resolve().parent.parent / ".venv.compat"
UNIT_TESTS = "tests/unit_tests"
FILES = [
    *("chat_models/test_base.py", "chat_models/test_prompt_cache_key.py", "chat_models/test_refusal.py"),
    *("test_load.py", "test_secrets.py", "test_tools.py"),
]

RESPONSES = "OpenAI's Responses API, which NanoGPT does not have"
OPENAI_NAMES = "rules for OpenAI's own model names: here every option goes out as it is given"
MAX_TOKENS = "max_tokens is sent under this name, as NanoGPT documents it"
ENVIRONMENT = "OPENAI_* and LANGSMITH_GATEWAY* variables, which are not read"
UNKNOWN_OPTION = "an option that the service does not document: it is refused, with a hint at extra_body"
SDK_ERRORS = "the SDK's errors: here they are NanoGPTErrors, and LangChain's own"
MOCKED = "an SDK error with a mock for a response, which has no body to read"
OPENAI_PACKAGE = "the name of OpenAI's package or provider in a dump or a message"
REPLACED = "options that the class's own client replaces: proxies, shared httpx clients, a function as key"
PROFILES = "profiles: limits and abilities of models as NanoGPT lists them"
TOOL_CALLS = "structured output by a JSON schema as the default: here it is a tool call"

# Patterns of test names, with the reason why the test cannot pass.
EXCLUDED = {
    "test_apply_patch_passthrough": RESPONSES,
    "test_get_request_payload_explicit_previous_response_id": RESPONSES,
    "test_gpt_6_tools_use_responses_api": RESPONSES,
    "test_infer_use_responses_api*": RESPONSES,
    "test_output_version_compat": RESPONSES,
    "test_profile_mid_conversation_tools_follow_responses_api*": RESPONSES,
    "test_responses_payload_does_not_mutate_text_model_kwargs": RESPONSES,
    "test_structured_output_verbosity*": RESPONSES,
    "test_tool_search_*": RESPONSES,
    "test_profile": PROFILES,
    "test__get_request_payload": OPENAI_NAMES,
    "test_gpt_5_*temperature*": OPENAI_NAMES,
    "test_minimal_reasoning_effort_payload*": MAX_TOKENS,
    "test_openai_model_param": MAX_TOKENS,
    "test_langsmith_gateway_*": ENVIRONMENT,
    "test_extra_body_with_model_kwargs": UNKNOWN_OPTION,
    "test_openai_error_classification*": SDK_ERRORS,
    "test_openai_transport_error_classification": SDK_ERRORS,
    "test_context_overflow_error_*": MOCKED,
    "test_convert_chunk_to_generation_chunk_v1_keeps_string_content": OPENAI_PACKAGE,
    "test_load_*": OPENAI_PACKAGE,
    "test_loads_*": OPENAI_PACKAGE,
    "test_openai_api_key_accepts_callable*": REPLACED,
    "test_openai_client_caching": REPLACED,
    "test_openai_stream": REPLACED,
    "test_structured_output_legacy_model": TOOL_CALLS,
}
REFUSED_OPTION = "is for OpenAI's Responses API, which is not used here"  # in the error of ChatNanoGPT


class Outcomes:
    """Pytest plugin: puts ``ChatNanoGPT`` in place of ``ChatOpenAI``, and sorts the outcomes.

    Attributes:
        passed: Number of tests that passed.
        excluded: Numbers of tests that failed as expected, by reason.
        failed: Names of other tests that failed.
        superfluous: Names of listed tests that passed.
    """

    def __init__(self) -> None:
        self.passed = 0
        self.excluded: Counter[str] = Counter()
        self.failed: list[str] = []
        self.superfluous: list[str] = []

    def pytest_configure(self) -> None:
        """Replace the class under every name that tests import it by."""
        import langchain_openai
        from langchain_openai import chat_models
        from langchain_openai.chat_models import base

        from langchain_nanogpt import ChatNanoGPT

        for module in (langchain_openai, chat_models, base):
            module.ChatOpenAI = ChatNanoGPT

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Sort the outcome of one test."""
        if report.when != "call" and not report.failed:
            return
        name = report.nodeid.rpartition("::")[2]
        reason = next((reason for pattern, reason in EXCLUDED.items() if fnmatch.fnmatch(name, pattern)), None)
        if report.failed and reason is None and REFUSED_OPTION in str(report.longrepr):
            reason = RESPONSES
        if report.failed:
            if reason is None:
                self.failed.append(name)
            else:
                self.excluded[reason] += 1
        elif report.passed:
            self.passed += 1
            if name in EXCLUDED:
                self.superfluous.append(name)


def source() -> Path:
    """Return the folder of the source of the installed langchain-openai."""
    name = f"langchain_openai-{version('langchain-openai')}"
    folder = HOME / name
    if not folder.is_dir():
        HOME.mkdir(exist_ok=True)
        wanted = name.replace("_", "-", 1).replace("openai-", "openai==")
        options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--dest", HOME, wanted]
        subprocess.run([sys.executable, "-m", "pip", "download", *options], check=True)
        with tarfile.open(HOME / f"{name}.tar.gz") as archive:
            archive.extractall(HOME, filter="data")
    return folder


def main(arguments: list[str]) -> int:
    """Run the tests, and print a table; return 1 if a test fails that is not listed."""
    folder, outcomes = source(), Outcomes()
    settings = HOME / "langchain_openai.ini"
    settings.write_text("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    os.environ["NANOGPT_API_KEY"] = "foo"
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(Path(llama_index.core.__file__).parent / "_static/tiktoken_cache"))
    os.chdir(folder)
    files = [f"{UNIT_TESTS}/{file}" for file in FILES]
    quiet = ["--quiet", "--no-header", "--no-summary", "--disable-warnings", "--tb=short", "-p", "no:cacheprovider"]
    options = ["-c", str(settings), "--rootdir", str(folder), "--disable-socket", "--allow-unix-socket", *quiet]
    pytest.main([*options, *files, *arguments], plugins=[outcomes])
    print(f"\nlangchain-openai {version('langchain-openai')}, ChatNanoGPT in place of ChatOpenAI:")
    print(f"{outcomes.passed:5} passed")
    for reason, number in outcomes.excluded.most_common():
        print(f"{number:5} excluded: {reason}")
    for name in outcomes.superfluous:
        print(f"      passed, although it is listed: {name}")
    print(f"{len(outcomes.failed):5} failed", *outcomes.failed, sep="\n        ")
    return 1 if outcomes.failed or not outcomes.passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
