"""``nanogpt embed`` in a terminal: a bar, colours, and the question before money is spent."""

import json
import os
import subprocess
import sys

import pytest

pty = pytest.importorskip("pty", reason="Windows has no pseudo-terminals")


@pytest.fixture
def terminal(service, tmp_path):  # noqa: ARG001 - it sets the environment
    """Return ``terminal(*options, typed=...)``: exit code and output of ``nanogpt embed`` in a terminal."""
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": f"Text {number}."}) + "\n" for number in range(300)))

    def run(*options, typed="", **environment):
        master, slave = pty.openpty()
        words = ["embed", tmp_path / "in.jsonl", "-o", tmp_path / "out.npy", "-d", 16, *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "nanogpt_core.cli", *map(str, words)],
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        os.write(master, typed.encode())
        output = b""
        # The end of a terminal is an error on Linux, and no bytes on macOS.
        try:
            while data := os.read(master, 4096):
                output += data
        except OSError:
            pass
        os.close(master)
        return process.wait(timeout=300), output.decode()

    return run


def test_bar_has_colours_and_a_question_is_answered_with_yes(terminal, service):
    code, output = terminal("--ask-above", "0.0000001", typed="y\n")
    assert (code, len(service.requests) > 0) == (0, True)
    assert "This will cost about $0." in output
    assert "Embedding" in output
    assert "\x1b[38;5;" in output


def test_no_color_is_kept_and_a_question_is_answered_with_no(terminal, service):
    code, output = terminal("--ask-above", "0.0000001", typed="n\n", NO_COLOR="1")
    assert (code, service.requests) == (6, [])
    assert "Nothing was sent." in output
    assert "\x1b[38;5;" not in output
