"""Faults around the client: its environment, its key, its process, its cache."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.faults.clients import CLIENTS, OURS
from benchmarks.faults.fault import EITHER, RIGHT, Fault
from benchmarks.faults.server import Pause, Request, Step, good, response, right_document
from benchmarks.faults.vectors import KEY, MODEL

FOREIGN = {
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
    Fault("Keys", "OPENAI_* variables set", want=RIGHT, environment=FOREIGN, secrets=FOREIGN),
    Fault(
        "Keys",
        "OPENAI_API_KEY set, no key given",
        most=0,
        settings={"api_key": None},
        environment=FOREIGN,
        secrets=FOREIGN,
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
    Fault("Caches", name, want=RIGHT, most=most, task=task, settings=_CACHE, clients=OURS)
    for name, most, task in (
        ("disk full", 2, "disk_full"),
        ("cache file is garbage", 2, "garbage_cache"),
        ("cache's folder cannot be made", 2, "no_folder"),
        ("cache file damaged between two calls", 2, "damaged_cache"),
        ("four processes on one cache", 4, "cache_shared"),
        ("one cache for two models' vectors", 2, "two_models"),
    )
]


def _blank_refused(request: Request) -> Iterable[Step]:
    if all(text.strip() for text in request.texts):
        return good(request)
    return [response({"error": {"message": "input cannot be an empty string"}}, 400)]


def _by_model(request: Request) -> Iterable[Step]:
    # Vectors of another model are other vectors.
    document = right_document(request)
    if request.asked["model"] == MODEL:
        document["data"].reverse()
        for index, item in enumerate(document["data"]):
            item["index"] = index
    return [response({**document, "model": request.asked["model"]})]


_CLASSES = tuple(client for client in CLIENTS if client not in ("core", "OpenAI SDK"))
OPTIONS = [
    Fault("Options", "model_copy with another model", _by_model, RIGHT, task="copied", clients=_CLASSES),
    Fault(
        "Options",
        "pickle of an object with a key and a header",
        want=RIGHT,
        most=0,
        task="pickled",
        settings={"default_headers": {"X-Gateway-Key": KEY}},
    ),
    Fault(
        "Options",
        "a misspelt option",
        most=0,
        task="misspelt",
        settings={"max_retry": 1},
        words=("max_retries",),
    ),
    Fault(
        "Options",
        "events of LlamaIndex for forty texts",
        want=RIGHT,
        most=5,
        task="listened",
        settings={"batch_size": _BATCH},
        clients=("LlamaIndex", "LlamaIndex OpenAI"),
    ),
    Fault("Options", "a blank text among eight", _blank_refused, most=0, task="blank", words=("position 5",)),
]

FAULTS = [*PROCESS, *KEYS, *OPTIONS, *CACHE]
