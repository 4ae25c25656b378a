"""A process that imports packages, and runs each program in a fork: importing a framework takes seconds."""

import ast
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from threading import Timer

# LlamaIndex imports langchain-community if it is installed. From Python 3.12 on, asyncio deprecates a call that
# LlamaIndex makes. anyio 4.16 deprecates a name that Starlette used before 1.8.
_SUNSET = "ignore:`langchain-community` is being sunset:DeprecationWarning"
_LOOP = "ignore:There is no current event loop:DeprecationWarning:llama_index.core.async_utils"
_PORTAL = "ignore:The anyio.abc.BlockingPortal alias is deprecated:DeprecationWarning"
IGNORED = (f"-W{_SUNSET}", f"-W{_LOOP}", f"-W{_PORTAL}")
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
    if "wait" in job:
        print(os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1]), flush=True)
        continue
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
    print(child, flush=True)
else:
    sys.exit()
signal.alarm(600)  # seconds: a program that hangs is killed, and fails its test
os.setsid()  # a kill ends the program's own forks too
for number, name in enumerate(job["pipes"]):
    opened = os.open(name, os.O_WRONLY if number else os.O_RDONLY)
    os.dup2(opened, number)
    os.close(opened)
sys.stdin = open(0, closefd=False)  # without lines of the next jobs
os.chdir(job["folder"])
os.environ.clear()
os.environ.update(job["environment"])
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


class Program:
    """A program that runs in a fork, with the pipes and methods of ``subprocess.Popen``."""

    def __init__(self, pid, wait, pipes):
        self.pid, self.returncode, self._wait = pid, None, wait
        self.stdin, self.stdout, self.stderr = (
            Path(pipe).open(mode, encoding="utf-8")  # noqa: SIM115 - closed at the end of a block
            for pipe, mode in zip(pipes, "wrr", strict=True)
        )

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        """Kill the program and its own forks."""
        if self.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)

    def wait(self):
        if self.returncode is None:
            self.returncode = self._wait(self.pid)
        return self.returncode

    def communicate(self, given=""):
        guard = Timer(300, self.kill)  # seconds: a program's own forks could keep the pipes open
        guard.start()
        with ThreadPoolExecutor(1) as executor:
            err = executor.submit(self.stderr.read)
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(given)
                self.stdin.close()
            out = self.stdout.read()
        guard.cancel()
        self.wait()
        return out, err.result()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pipe in (self.stdin, self.stdout, self.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.wait()


class WarmProcess:
    """Runs programs in forks of one process, which imports their packages before. Warnings are errors.

    Without ``fork``, as on Windows, each program has a process of its own.
    """

    def __init__(self):
        self._process = self._python(_WARM)

    @staticmethod
    def _python(code, *words, with_warnings=False, **options):
        command = [sys.executable, "-W", "default" if with_warnings else "error", *IGNORED, "-c", code, *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, encoding="utf-8", **options)

    def _ask(self, **job):
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(self._process.communicate()[1])
        return int(answer)

    def start(self, code, folder, *words, environment=None, with_warnings=False, ends=False):
        """Start a program in ``folder``. A program that hangs is killed after ten minutes.

        Args:
            code: The program.
            folder: The folder.
            *words: The words of the command line, with the name of the program.
            environment: Environment variables beside those of this process.
            with_warnings: Whether warnings are printed instead of being errors.
            ends: Whether the interpreter shuts down as usual, instead of stopping after the last line.
        """
        environment = {**os.environ, **(environment or {})}
        if not hasattr(os, "fork"):
            return self._python(code, *words[1:], cwd=folder, env=environment, with_warnings=with_warnings)
        with tempfile.TemporaryDirectory() as place:
            pipes = [str(Path(place, name)) for name in ("in", "out", "err")]
            for pipe in pipes:
                os.mkfifo(pipe)
            job = {"code": code, "folder": str(folder), "words": words or ["<string>"], "environment": environment}
            job |= {"with_warnings": with_warnings, "ends": ends, "pipes": pipes}
            pid = self._ask(imports=[*_LATE, *sorted(imports(code))], **job)
            return Program(pid, lambda pid: self._ask(wait=pid), pipes)

    def run(self, code, folder, *words, **options):
        """Run a program to its end, with the arguments of ``start``; return its status, output and errors."""
        with self.start(code, folder, *words, **options) as program:
            try:
                out, err = program.communicate()
            finally:
                program.kill()
        return program.returncode, out, err

    def close(self):
        """End the process."""
        self._process.communicate(timeout=300)
