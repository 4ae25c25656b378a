"""A process that imports packages, and runs each program in a fork: importing a framework takes seconds."""

import ast
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

# LlamaIndex imports langchain-community if it is installed. From Python 3.12 on, asyncio deprecates a call that
# LlamaIndex makes.
_SUNSET = "ignore:`langchain-community` is being sunset:DeprecationWarning"
_LOOP = "ignore:There is no current event loop:DeprecationWarning:llama_index.core.async_utils"
IGNORED = (f"-W{_SUNSET}", f"-W{_LOOP}")
"""Options of Python that ignore warnings of the frameworks."""

# Modules that are imported with the first request, or as the sandbox starts, and tiktoken's vocabulary: the product
# waits only 10 seconds for it, too few on a very busy machine.
_LATE = (
    "import openai.resources.chat, openai.resources.embeddings",
    "import httpcore, pybase64",
    "import anyio._backends._asyncio, uvicorn.lifespan.on, uvicorn.protocols.http.auto",
    "import portalocker",  # qdrant-client's, which imports redis
    "import os, tiktoken\nif 'TIKTOKEN_CACHE_DIR' in os.environ: tiktoken.get_encoding('cl100k_base')",
)

_WARM = """
import gc, json, os, signal, sys, types, warnings
imported = set()
for line in sys.stdin:
    job = json.loads(line)
    for statement in job["imports"]:
        if statement in imported:
            continue
        imported.add(statement)
        try:
            exec(statement, {})
        except Exception:
            pass  # the program fails by itself
        gc.freeze()  # or each fork would copy all of it to look at it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads that numpy has outside of Python
        child = os.fork()
    if not child:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()
signal.alarm(600)  # seconds: a program that hangs is killed, and fails its test
os.chdir(job["folder"])
os.environ.update(job["environment"])
for number, name in enumerate((os.devnull, job["out"], job["err"])):
    os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC * (number > 0)), number)
if job["with_warnings"]:
    warnings.simplefilter("default")
sys.argv = job["words"]
sys.modules["__main__"] = main = types.ModuleType("__main__")
exec(compile(job["code"], sys.argv[0], "exec"), vars(main))
if not job["ends"]:
    sys.stdout.flush()
    os._exit(0)  # the end of an interpreter looks at all objects, and would copy their pages: a third of the CPU time
"""


def installed(name):
    """Return True if a module can be imported."""
    parent = name.rpartition(".")[0]
    return (not parent or installed(parent)) and find_spec(name) is not None


def imported(code):
    """Yield the import statements of a program with the modules that they name."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            yield ast.unparse(node), [node.module]
        elif isinstance(node, ast.Import):
            yield ast.unparse(node), [alias.name for alias in node.names]


def imports(code):
    """Return the lines of a program that import installed packages."""
    return {line for line, names in imported(code) if all(map(installed, names))}


class WarmProcess:
    """Runs programs in forks of one process, which imports their packages before. Warnings are errors."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", *IGNORED, "-c", _WARM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, code, folder, *words, environment=None, with_warnings=False, ends=False):
        """Run a program in ``folder``; return its status, or an error of the process, and its output and errors.

        Args:
            code: The program.
            folder: The folder, in one that has room for files with the outputs.
            *words: The words of the command line, with the name of the program.
            environment: Further environment variables.
            with_warnings: Whether warnings are printed instead of being errors.
            ends: Whether the interpreter shuts down as usual, instead of stopping after the last line.
        """
        out, err = (Path(folder).parent / name for name in ("out", "err"))
        job = {"code": code, "folder": str(folder), "out": str(out), "err": str(err), "words": words or ["<string>"]}
        job |= {"environment": environment or {}, "with_warnings": with_warnings, "ends": ends}
        job["imports"] = [*_LATE, *sorted(imports(code))]
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline().strip() or self._process.communicate()[1]
        return status, *(file.read_text(encoding="utf-8") if file.exists() else "" for file in (out, err))

    def close(self):
        """End the process."""
        self._process.communicate(timeout=300)
