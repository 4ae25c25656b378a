"""A second writer: ``python dying.py`` stores entries in forks of itself, each killed at a statement.

Each line of standard input is a list in JSON: the path of the file, the number of the statement, pairs of a key and an
entry, and a path for the errors. For each, the exit status is printed. The number counts SQLite's own statements: 0 is
before the transaction begins. A large number lets the writer live. It needs no numpy and starts quickly.
"""

import json
import os
import signal
import sys

from nanogpt_core.cache.sqlite import SQLiteCache


def store(path, at, pairs):
    cache = SQLiteCache(path)
    cache.get_many([b"to open it"])
    left = at

    def count(_statement):
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    if cache._connection is not None:
        cache._connection.set_trace_callback(count)
    cache.put_many({bytes.fromhex(key): bytes.fromhex(entry) for key, entry in pairs})
    cache.close()


for line in sys.stdin:
    *arguments, errors = json.loads(line)
    child = os.fork()
    if not child:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), sys.stderr.fileno())
        store(*arguments)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
