"""Has one client meet one fault: starts servers and a process, ends both, and records the requests that arrived."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.faults.certificates import KINDS, Certificates
from benchmarks.faults.child import Order, measure
from benchmarks.faults.clients import CLIENTS
from benchmarks.faults.fault import RIGHT, Fault
from benchmarks.faults.gathered import GATHERED, gathering
from benchmarks.faults.judge import HANG, RAW, Result
from benchmarks.faults.server import Request, Server, good
from benchmarks.faults.vectors import KEY

HANGS_AFTER = 25.0
"""Seconds after which a call counts as one that hangs."""

_START = 60.0
_context = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Have the clients imported once, in the process that all measurements are forked from."""
    _context.set_forkserver_preload(["benchmarks.faults.warm"])


def run(fault: Fault, client: str, certificates: Certificates) -> Result | None:
    """Return the result of ``client`` for ``fault``; None if the fault does not concern it."""
    if client not in (fault.clients or CLIENTS) or (client == GATHERED and not fault.gathers):
        return None
    reply = gathering(fault.reply) if client == GATHERED else fault.reply
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True))
        elsewhere = stack.enter_context(Server(good, "127.0.0.2"))
        tls = certificates.context(fault.place) if fault.place in KINDS else None
        server = stack.enter_context(Server(reply, tls=tls, other=elsewhere.url))
        url = stack.enter_context(_place(fault, server))
        environment = {**fault.environment, **(certificates.environment(fault.place) if tls else {})}
        order = Order(client, fault.task, url, folder, fault.words, fault.settings, environment, HANGS_AFTER)
        result = _run(order)
        if server.broken is not None:
            raise RuntimeError(f"the server itself failed at {fault.name!r}") from server.broken
        # The first request of calls that gather is not counted.
        result.requests = max(0, len(server.embedding_requests) - (client == GATHERED))
        if fault.repeats is not None:
            result.repeats = _repeats(server)
        result.leaks += _arrived(fault, server.requests, elsewhere.requests)
        if fault.place == "remote" and result.outcome == RIGHT:
            result.leaks.append("would send key and texts unencrypted")
    return result


@contextlib.contextmanager
def _place(fault: Fault, server: Server) -> Iterator[str]:
    port = server.host.rpartition(":")[2]
    if fault.place == "refused":
        # A socket that is bound, and does not listen, keeps its port to itself.
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            yield f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
    else:
        places = {
            "unknown": "https://faults.invalid/v1",
            "remote": "http://198.51.100.7/v1",  # an address of the documentation's range; nothing is sent
            "no path": server.url.removesuffix("/v1"),
            "no TLS": f"https://127.0.0.1:{port}/v1",
        }
        yield places.get(fault.place, server.url)


def _run(order: Order) -> Result:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=measure, args=(order, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START):
            return Result(RAW, message="the process did not start")
        ours.recv()
        if not ours.poll(HANGS_AFTER):
            return Result(HANG, elapsed=HANGS_AFTER)
        return ours.recv()
    except EOFError:
        return Result(RAW, message="the process died")
    finally:
        _end(process.pid)
        process.join(10)
        ours.close()


def _end(process: int | None) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if process:
            os.killpg(process, signal.SIGKILL)


def _repeats(server: Server) -> int:
    texts = [text for request in server.embedding_requests for text in request.texts]
    return len(texts) - len(set(texts))


def _arrived(fault: Fault, here: list[Request], elsewhere: list[Request]) -> list[str]:
    leaks = [f"{name} sent" for name, value in fault.secrets.items() if _holds(here, value.rpartition(": ")[2])]
    if any(request.method == "POST" and request.body for request in elsewhere):
        leaks.append("texts to the other host")
    if _holds(elsewhere, KEY):
        leaks.append("key to the other host")
    return leaks


def _holds(requests: list[Request], value: str) -> bool:
    return any(value in request.head for request in requests)


def folder_for_certificates() -> tempfile.TemporaryDirectory[str]:
    """Return a folder that goes away by itself."""
    return tempfile.TemporaryDirectory(prefix="faults-")


def certificates_in(folder: str) -> Certificates:
    """Return certificates for all measurements."""
    return Certificates(Path(folder))
