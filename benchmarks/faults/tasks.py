"""Tasks of a client. Each function makes the client, uses it, and says whether the vectors were right."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import resource
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks.faults.clients import Client
from benchmarks.faults.judge import is_typed
from benchmarks.faults.vectors import KEY, MANY, TEXTS, is_right

Make = Callable[..., Client]
_PATIENCE = 10.0
_CALLS = 5
_FORKED_CALLS = 15
_PROCESSES = 4
_RIGHT, _WRONG, _TYPED, _RAW = range(4)
_CACHE = Path("vectors.sqlite")
# A digit can be a token of its own, and estimates expect fewer.
DENSE_TEXT = "0123456789abcdef" * 200
MOST_CHARACTERS = 1000
"""Longest text that the service takes in :func:`cut_further`."""


class HangError(Exception):
    """Something does not end."""


class ForkedError(Exception):
    """A forked process ended with an error.

    Attributes:
        typed: Whether that was the client's own error.
    """

    def __init__(self, typed: bool) -> None:
        super().__init__(f"in a forked process: a {'typed' if typed else 'raw'} error")
        self.typed = typed


def embed(make: Make, _: str) -> bool:
    """Embed eight texts."""
    return is_right(TEXTS, make().embed(TEXTS))


def in_loop(make: Make, _: str) -> bool:
    """Embed eight texts in an event loop."""
    return is_right(TEXTS, asyncio.run(make().aembed(TEXTS)))


def in_two_loops(make: Make, _: str) -> bool:
    """Embed eight texts in one event loop, and again in another."""
    client = make()
    return all(is_right(TEXTS, asyncio.run(client.aembed(TEXTS))) for _ in range(2))


def twice(make: Make, _: str) -> bool:
    """Embed, wait a moment, embed again."""
    client = make()
    first = is_right(TEXTS, client.embed(TEXTS))
    # The waits of clients are virtual, and this one is not theirs.
    threading.Event().wait(0.2)
    return first and is_right(TEXTS, client.embed(TEXTS))


def many(make: Make, _: str) -> bool:
    """Embed forty texts."""
    return is_right(MANY, make().embed(MANY))


def misspelt(make: Make, _: str) -> bool:
    """Make the client with an option that there is not; an error is right."""
    make()
    return False


def cut_further(make: Make, _: str) -> bool:
    """Embed eight texts, of which the service counts one higher than any estimate; its beginning is right."""
    vectors = make().embed([*TEXTS[:7], DENSE_TEXT])
    beginnings = (DENSE_TEXT[:length] for length in range(MOST_CHARACTERS, 0, -1))
    return is_right(TEXTS[:7], vectors[:7]) and any(is_right([text], vectors[7:]) for text in beginnings)


def listened(make: Make, url: str) -> bool:
    """Embed forty texts with a listener: each start precedes its requests, each end follows them."""
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.event_handlers import BaseEventHandler
    from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent

    seen: list[tuple[type, int]] = []

    class Listener(BaseEventHandler):
        def handle(self, event: object, **_: object) -> None:
            if isinstance(event, (EmbeddingStartEvent, EmbeddingEndEvent)):
                seen.append((type(event), _seen(url)))

    get_dispatcher("root").add_event_handler(Listener())
    right = is_right(MANY, make().embed(MANY))
    kinds, requests = [kind for kind, _ in seen], [count for _, count in seen]
    pairs = len(seen) // 2
    in_turn = kinds == [EmbeddingStartEvent, EmbeddingEndEvent] * pairs
    return right and pairs > 0 and in_turn and requests[0] == 0 and requests[-1] == _seen(url)


def construct(make: Make, _: str) -> bool:
    """Make the client, and send nothing."""
    make()
    return True


def copied(make: Make, _: str) -> bool:
    """Copy the object with another model, and embed eight texts with that."""
    copy = make().copied
    return copy is not None and is_right(TEXTS, copy("text-embedding-ada-002").embed(TEXTS))


def pickled(make: Make, _: str) -> bool:
    """Pickle the object; the pickle may hold no secret."""
    return KEY.encode() not in pickle.dumps(make().used)


def blank(make: Make, _: str) -> bool:
    """Embed eight texts, one of them blank."""
    texts = [*TEXTS[:5], "  ", *TEXTS[6:]]
    return is_right(texts, make().embed(texts))


def threaded(make: Make, _: str) -> bool:
    """Embed other texts in each of eight threads."""
    client = make()
    right: list[bool] = []

    def work(number: int) -> None:
        texts = [f"{text} in thread {number}" for text in TEXTS]
        right.extend(is_right(texts, client.embed(texts)) for _ in range(_CALLS))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(right) == 8 * _CALLS and all(right)


def forked(make: Make, _: str) -> bool:
    """Embed, fork, and embed other texts in each process."""
    client = make()
    client.embed(TEXTS)

    def work(number: int) -> bool:
        texts = [f"{text} in process {number}" for text in TEXTS]
        return all(is_right(texts, client.embed(texts)) for _ in range(_FORKED_CALLS))

    return _gather([_fork(lambda number=number: work(number)) for number in range(_PROCESSES)])


def killed(make: Make, url: str) -> bool:
    """Have a process killed in mid-run, and do its work again."""
    return _ended(make, url, signal.SIGKILL)


def interrupted(make: Make, url: str) -> bool:
    """Have a process interrupted in mid-run, and do its work again."""
    return _ended(make, url, signal.SIGINT)


def _ended(make: Make, url: str, by: signal.Signals) -> bool:
    child = _fork(lambda: many(make, url))
    _wait_for(lambda: _seen(url) >= 4, "the fourth request")
    os.kill(child, by)
    _wait(child)
    return many(make, url)


def disk_full(make: Make, url: str) -> bool:
    """Embed with a file size limit of zero."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    sys.dont_write_bytecode = True  # Python would write a part of a module's bytecode, and later fail to read it
    resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384))
    return embed(make, url)


def garbage_cache(make: Make, url: str) -> bool:
    """Embed with a cache file that is none."""
    _CACHE.write_bytes(b"this is no database " * 1000)
    return embed(make, url)


def no_folder(make: Make, _: str) -> bool:
    """Embed with a cache in a folder that is a file."""
    Path("file").touch()
    return is_right(TEXTS, make(cache=str(Path("file") / _CACHE)).embed(TEXTS))


def damaged_cache(make: Make, url: str) -> bool:
    """Embed, damage the cache's file, and embed again."""
    if not embed(make, url):
        return False
    for path in Path().glob(f"{_CACHE}*"):
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(content[:middle] + os.urandom(min(20_000, middle)) + content[middle + 20_000 :])
    return embed(make, url)


def cache_shared(make: Make, url: str) -> bool:
    """Embed the same texts in four processes with one cache."""
    return _gather([_fork(lambda: embed(make, url)) for _ in range(_PROCESSES)])


def two_models(make: Make, url: str) -> bool:
    """Embed the same texts with two models over one cache; the second has to be asked too."""
    first = embed(make, url)
    return first and is_right(TEXTS, make(model="text-embedding-ada-002").embed(TEXTS)) and _seen(url) == 2


def _seen(url: str) -> int:
    with urllib.request.urlopen(f"{url}/seen", timeout=_PATIENCE) as reply:
        return int(json.loads(reply.read()))


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    pause = threading.Event()
    end = time.perf_counter() + _PATIENCE
    while not condition():
        if time.perf_counter() > end:
            raise HangError(f"{what} did not come")
        pause.wait(0.02)


def _fork(work: Callable[[], bool]) -> int:
    child = os.fork()
    if child:
        return child
    signal.alarm(int(2 * _PATIENCE))
    code = _RAW
    try:
        code = _RIGHT if work() else _WRONG
    except BaseException as error:  # noqa: BLE001 - any exception of a client is a result
        code = _TYPED if is_typed(error) else _RAW
    finally:
        os._exit(code)


def _gather(children: list[int]) -> bool:
    codes = [_wait(child) for child in children]
    if _WRONG not in codes and any(codes):
        raise ForkedError(typed=set(codes) <= {_RIGHT, _TYPED})
    return _WRONG not in codes


def _wait(child: int) -> int:
    codes: list[int] = []

    def ended() -> bool:
        ready, status = os.waitpid(child, os.WNOHANG)
        codes.extend([os.waitstatus_to_exitcode(status)] if ready else [])
        return bool(ready)

    _wait_for(ended, "a process's end")
    return codes[0]
