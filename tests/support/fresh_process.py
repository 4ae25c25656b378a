"""A new interpreter, for programs that must import the packages themselves."""

import os
import subprocess
import sys

# Looking for garbage among the modules of OpenAI's SDK, while they are imported and as the interpreter shuts down,
# takes two fifths of such a program's CPU time.
_PROGRAM = """
import gc
gc.disable()
{code}
import os, sys
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
"""


def run(code, *words, environment=None, options=()):
    """Run a program in a new interpreter, which stops after the last line without its usual shutdown.

    Args:
        code: The program.
        *words: The words of the command line after the program's name.
        environment: Environment variables beside those of this process.
        options: Options of Python.

    Returns:
        The completed process of ``subprocess``, with its output as text.
    """
    command = [sys.executable, *options, "-c", _PROGRAM.format(code=code), *words]
    environment = {**os.environ, **(environment or {})}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
