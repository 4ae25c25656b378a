"""Faults around the client: its environment, its key, its process, its cache."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.faults.fault import EITHER, RIGHT, Fault
from benchmarks.faults.server import Pause, Request, Step, good, response
from benchmarks.faults.vectors import KEY

_FOREIGN = {
    "OPENAI_API_KEY": "sk-foreign-key",
    "OPENAI_ORG_ID": "org-foreign",
    "OPENAI_PROJECT_ID": "proj-foreign",
    "OPENAI_CUSTOM_HEADERS": "X-Foreign: header-foreign",
}
_BATCH = 8
_HELD = 4


def _held(request: Request) -> Iterable[Step]:
    # The fourth request is under way for ever, until its sender is ended.
    return [Pause(600.0)] if request.number == _HELD else good(request)


def _fails_late(request: Request) -> Iterable[Step]:
    return good(request) if request.number < _HELD else [response({"error": {"message": "key withdrawn"}}, 401)]


_CACHED = {"batch_size": _BATCH, "max_concurrency": 1, "cache": "vectors.sqlite"}
_ONE_BY_ONE = {"batch_size": _BATCH, "max_concurrency": 1}
PROCESS = [
    Fault("Processes", "fork of a used client", want=RIGHT, most=1 + 4 * 15, task="forked"),
    Fault("Processes", "eight threads on one object", want=RIGHT, most=40, task="threaded"),
    Fault("Processes", "two asyncio.run on one object", want=RIGHT, most=2, task="in_two_loops"),
    Fault("Processes", "the fourth of five requests refused", _fails_late, most=4, task="many", settings=_ONE_BY_ONE),
    Fault(
        "Processes", "SIGKILL in mid-run, then again", _held, RIGHT, 6, task="killed", settings=_CACHED, repeats=_BATCH
    ),
    Fault(
        "Processes",
        "Ctrl-C in mid-run, then again",
        _held,
        RIGHT,
        6,
        task="interrupted",
        settings=_CACHED,
        repeats=_BATCH,
    ),
]

KEYS = [
    Fault("Keys", "OPENAI_* variables set", want=RIGHT, environment=_FOREIGN, secrets=_FOREIGN),
    Fault(
        "Keys",
        "OPENAI_API_KEY set, no key given",
        most=0,
        settings={"api_key": None},
        environment=_FOREIGN,
        secrets=_FOREIGN,
        words=("nanogpt_api_key",),
    ),
    Fault("Keys", "a key with a newline at its end", want=EITHER, settings={"api_key": KEY + "\n"}),
    Fault("Keys", "a key with a newline inside", most=0, settings={"api_key": KEY + "\n" + KEY}),
    Fault("Keys", "a key with blanks around it", want=EITHER, settings={"api_key": f"  {KEY} "}),
    Fault("Keys", "a key outside ASCII", most=0, settings={"api_key": KEY + "é"}),
    Fault("Keys", "an empty key", most=0, settings={"api_key": ""}),
]

_CACHE = {"cache": "vectors.sqlite"}
CACHE = [
    Fault("Caches", name, want=RIGHT, most=most, task=task, settings=_CACHE, own_only=True)
    for name, most, task in (
        ("disk full", 2, "disk_full"),
        ("cache file is garbage", 2, "garbage_cache"),
        ("cache's folder cannot be made", 2, "no_folder"),
        ("cache file damaged between two calls", 2, "damaged_cache"),
        ("four processes on one cache", 4, "cache_shared"),
        ("one cache for two models' vectors", 2, "two_models"),
    )
]

FAULTS = [*PROCESS, *KEYS, *CACHE]
