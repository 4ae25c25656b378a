"""One measurement, in a process of its own."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import time
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.faults import chat_tasks, tasks
from benchmarks.faults.chat_clients import CHAT_MODEL, Chat, make_chat
from benchmarks.faults.clients import OWN_COLUMNS, Client, make
from benchmarks.faults.judge import HANG, WRONG, Result, judge
from benchmarks.faults.vectors import MODEL

_clock = time.perf_counter


@dataclass(frozen=True)
class Order:
    """One measurement that a process is asked for.

    Attributes:
        client: One of :data:`benchmarks.faults.clients.CLIENTS`.
        task: A task; see :class:`benchmarks.faults.fault.Fault`.
        url: Base URL of the client.
        folder: An empty folder to work in.
        words: Words that an error's message should contain; see :class:`benchmarks.faults.fault.Fault`.
        settings: Options of the client.
        environment: Variables to set.
        seconds: Time limit after which the process ends itself.
    """

    client: str
    task: str
    url: str
    folder: str
    words: tuple[str, ...]
    settings: dict[str, Any] = field(repr=False)
    environment: dict[str, str] = field(repr=False)
    seconds: float


@dataclass
class _Counts:
    virtual: float = 0.0
    connections: int = 0

    @property
    def seconds(self) -> float:
        return self.virtual


def measure(order: Order, pipe: Connection) -> None:
    """Perform ``order``, and send the :class:`~benchmarks.faults.judge.Result` through ``pipe``."""
    _settle(order)
    counts = _Counts()
    _count_connections(counts)
    before = _memory()
    pipe.send(None)  # ready
    start = _clock()
    with _waits(order.client, counts) as waits:
        result = _result(order)
        result.elapsed = _clock() - start
    result.virtual = waits.seconds
    result.connections = counts.connections
    result.memory = _memory() - before
    pipe.send(result)
    os._exit(0)  # without the clean-up of clients, which is not measured


def _settle(order: Order) -> None:
    os.setpgid(0, 0)  # the processes that it forks can be ended with it
    signal.alarm(int(order.seconds) + 10)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.chdir(order.folder)
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "NANOGPT_", "NANO_GPT_"))]:
        del os.environ[name]
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    os.environ.update(order.environment)


def _result(order: Order) -> Result:
    def make_client(model: str = MODEL, **changes: Any) -> Client:
        return make(order.client, order.url, model, **{**order.settings, **changes})

    def make_chat_client(model: str = CHAT_MODEL, **changes: Any) -> Chat:
        return make_chat(order.client, order.url, model, **{**order.settings, **changes})

    try:
        if order.task.startswith("chat_"):
            right = getattr(chat_tasks, order.task.removeprefix("chat_"))(make_chat_client, order.url)
        else:
            right = getattr(tasks, order.task)(make_client, order.url)
    except tasks.HangError as error:
        return Result(HANG, message=str(error))
    except BaseException as error:  # noqa: BLE001 - any exception of a client is a result
        return judge(error, order.words)
    return Result("right" if right else WRONG)


def _memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _count_connections(counts: _Counts) -> None:
    connect = socket.create_connection

    def counted(*args: Any, **kwargs: Any) -> socket.socket:
        counts.connections += 1
        return connect(*args, **kwargs)

    socket.create_connection = counted


def _waits(client: str, counts: _Counts) -> AbstractContextManager[Any]:
    if client in OWN_COLUMNS:
        from nanogpt_core._runtime.clock import fake_clock

        return fake_clock()
    _let_sleeps_pass(counts)
    return nullcontext(counts)


def _let_sleeps_pass(counts: _Counts) -> None:
    """Let the sleeps of other projects' clients move their clock on, without taking time."""
    import asyncio

    import anyio

    def sleep(seconds: float) -> None:
        counts.virtual += max(0.0, seconds)

    async def sleep_in_loop(seconds: float, result: Any = None) -> Any:
        counts.virtual += max(0.0, seconds)
        await real_sleep(0)
        return result

    real_sleep, real_time = asyncio.sleep, time.monotonic
    time.sleep = sleep
    # Limits on the time of all retries go by this clock.
    time.monotonic = lambda: real_time() + counts.virtual
    asyncio.sleep = sleep_in_loop
    anyio.sleep = sleep_in_loop
