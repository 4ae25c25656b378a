"""`nanogpt sandbox`: the same as `python -m nanogpt_core.sandbox`."""

import inspect
import re
import signal
import subprocess
import sys
import urllib.request

import pytest

pytest.importorskip("cyclopts", reason="the cli extra is not installed")
pytest.importorskip("uvicorn", reason="the sandbox extra is not installed")

from nanogpt_core.cli.entry import run
from nanogpt_core.cli.sandbox import sandbox
from nanogpt_core.sandbox.__main__ import make_parser


def test_options_and_defaults_are_those_of_the_module():
    theirs = vars(make_parser().parse_args([]))
    ours = {name: parameter.default for name, parameter in inspect.signature(sandbox).parameters.items()}
    ours["vendor_limits"] = ours.pop("no_vendor_limits") or None
    assert ours == theirs


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--host", "0.0.0.0"], "--allow-remote"), (["--port", "70000"], "not 70,000")],
)
def test_unusable_option_is_one_line_and_exit_code_2(capsys, words, message):
    assert run(["sandbox", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process on Windows")
def test_sandbox_serves_until_interrupted():
    command = [sys.executable, "-m", "nanogpt_core.cli", "sandbox", "--port", "0", "--api-key", "sk-own"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        lines = [process.stdout.readline() for _ in range(5)]
        url = re.search(r"http://\S+", lines[1])[0]
        assert lines[2] == "API key:  sk-own\n"
        with urllib.request.urlopen(f"{url}/embedding-models", timeout=60) as reply:
            assert b"BAAI/bge-m3" in reply.read()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=300)[1] == ""
        assert process.returncode == 0
    finally:
        process.kill()
        process.wait()
