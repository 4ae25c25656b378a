"""Importing this plugin brings nothing of the other framework."""

import subprocess
import sys

CODE = "import sys, langchain_nanogpt; print([name for name in sys.modules if name.startswith('llama_index')])"


def test_import_brings_no_llama_index():
    done = subprocess.run([sys.executable, "-W", "error", "-c", CODE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
