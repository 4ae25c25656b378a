"""A second writer: ``python dying.py PATH AT`` stores the entries that it reads, and is killed at a statement.

AT counts SQLite's own statements: 0 is before the transaction begins. A large number lets it live. It needs no numpy
and starts quickly.
"""

import json
import os
import signal
import sys

from nanogpt_core.cache.sqlite import SQLiteCache


def main(path, at):
    cache = SQLiteCache(path)
    cache.get_many([b"to open it"])
    left = int(at)

    def count(_statement):
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    if cache._connection is not None:
        cache._connection.set_trace_callback(count)
    cache.put_many({bytes.fromhex(key): bytes.fromhex(entry) for key, entry in json.load(sys.stdin)})
    cache.close()


main(*sys.argv[1:])
