"""Calls in processes that fork during the first import, or that run out of file descriptors."""

import os
import sys

import pytest

import fresh_process

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")

FORK_DURING_IMPORT = """
import os, sys, threading
from nanogpt_core import Embedder

options = {"api_key": os.environ["KEY"], "base_url": os.environ["URL"], "dimensions": 8, "batch_size": 1}
importing = threading.Event()

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            importing.set()

sys.meta_path.insert(0, Watch())
first = threading.Thread(target=lambda: Embedder(**options).embed(["one", "two", "three"]))
first.start()
assert importing.wait(60)
child = os.fork()
if child == 0:
    vectors = Embedder(**options).embed(["one", "two", "three"])
    os._exit(0 if vectors.shape == (3, 8) and vectors.any(axis=1).all() else 1)
first.join()
assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.parametrize("module", ["openai", "numpy", "pybase64"])
def test_child_forked_during_the_first_import_gets_the_right_vectors(options, module):
    environment = {"KEY": options["api_key"], "URL": options["base_url"]}
    ignored = "-Wignore::DeprecationWarning"  # of a fork beside threads
    done = fresh_process.run(FORK_DURING_IMPORT, module, environment=environment, options=[ignored])
    assert done.returncode == 0, done.stderr[-2000:]


NO_DESCRIPTORS = """
import os, resource
from nanogpt_core import Embedder, NanoGPTError

taken = []

def use_up(done, total):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass

embedder = Embedder(
    api_key=os.environ["KEY"],
    base_url=os.environ["URL"],
    dimensions=8,
    batch_size=1,
    max_retries=0,
    max_concurrency=1,
    progress=use_up,
)
try:
    embedder.embed(["one", "two", "three"])
except NanoGPTError as error:
    for descriptor in taken:
        os.close(descriptor)
    assert list(error.completed) == [0], error.completed
    assert error.failed_positions == (1, 2)
    assert "Too many open files" in str(error), error
else:
    raise SystemExit("no error")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on a process's descriptors.")
@pytest.mark.xdist_group("processes")
def test_without_file_descriptors_the_error_keeps_the_completed_vectors(serve, faults, warm, tmp_path):
    # Each reply closes its connection, so the second request needs a new one.
    def answer(seen):
        asked = seen.json
        return faults.response(faults.document(asked["input"], width=8), Connection="close")

    server = serve(answer)
    environment = {"KEY": server.api_key, "URL": server.base_url}
    status, _, err = warm.run(NO_DESCRIPTORS, tmp_path, environment=environment, ends=True)
    assert status == 0, err[-2000:]
