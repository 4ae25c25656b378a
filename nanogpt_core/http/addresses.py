"""Connects to the first of a host's addresses that answers ("happy eyeballs", RFC 8305), sync and async."""

from __future__ import annotations

import asyncio
import contextlib
import encodings.idna  # noqa: F401 - looking up a host would import it, which fails without free files
import errno
import itertools
import math
import os
import selectors
import socket
import time
from functools import partial
from typing import Any

from nanogpt_core._runtime.threads import run_within
from nanogpt_core._runtime.workers import call_in_thread

TIMED_OUT = "timed out"
"""Text of the errors of this project about a socket whose time is over."""

_NEXT_ADDRESS_SECONDS = 0.25
_CONNECTING = (0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EALREADY)

_Address = tuple[Any, ...]


def connect(host: str, port: int, seconds: float | None) -> socket.socket:
    """Return a connected socket, which does not block, to the first address that answers.

    Each address has a head start of 0.25 s over the next. All have ``seconds`` together, with the look-up of the host.

    Raises:
        OSError: No address answers: the error of the last one to fail. It is a ``TimeoutError`` if the time is over.
    """
    deadline = math.inf if seconds is None else time.monotonic() + seconds
    untried = _alternating(_look_up(host, port, seconds))
    failure = OSError(errno.EADDRNOTAVAIL, "the host has no address")
    opened = list[socket.socket]()
    try:
        with selectors.DefaultSelector() as selector:
            while untried or selector.get_map():
                if untried:
                    address = untried.pop(0)
                    try:
                        opened.append(_open(address))
                        code = opened[-1].connect_ex(address[4])
                        if code not in _CONNECTING:
                            raise OSError(code, os.strerror(code))
                    except OSError as error:
                        failure = error
                        continue
                    selector.register(opened[-1], selectors.EVENT_WRITE)
                pause = min(deadline - time.monotonic(), _NEXT_ADDRESS_SECONDS if untried else math.inf)
                answers = selector.select(None if pause == math.inf else max(0.0, pause))
                for key, _ in answers:
                    ready: Any = key.fileobj
                    selector.unregister(ready)
                    code = ready.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        opened.remove(ready)
                        return ready  # type: ignore[no-any-return]
                    failure = OSError(code, os.strerror(code))
                # No answer in all the time left; also if the program has frozen the clock, as tests do.
                if time.monotonic() >= deadline or not (answers or untried):
                    raise TimeoutError(TIMED_OUT)
        raise failure
    finally:
        for sock in opened:
            sock.close()


async def aconnect(host: str, port: int) -> socket.socket:
    """Return a connected socket for the running event loop; see :func:`connect`."""
    failure: BaseException = OSError(errno.EADDRNOTAVAIL, "the host has no address")
    found = _numeric(host, port) or await call_in_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    untried, tasks = _alternating(found), set[asyncio.Task[socket.socket]]()
    try:
        while untried or tasks:
            if untried:
                tasks.add(asyncio.ensure_future(_aconnect(untried.pop(0))))
            pause = _NEXT_ADDRESS_SECONDS if untried else None
            done, _ = await asyncio.wait(tasks, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                tasks.discard(task)
                error = task.exception()
                if error is None:
                    return task.result()
                failure = error
        raise failure
    finally:
        # Nothing is awaited: a cancel scope of anyio's cancels that too, and the sockets would stay open.
        for task in tasks:
            task.cancel()
            task.add_done_callback(_close_unused)


def _close_unused(task: asyncio.Task[socket.socket]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def _alternating(addresses: list[_Address]) -> list[_Address]:
    """Order addresses so that their families alternate, beginning with the system's first choice."""
    families = list(dict.fromkeys(address[0] for address in addresses))
    columns = [[address for address in addresses if address[0] == family] for family in families]
    return [one for row in itertools.zip_longest(*columns) for one in row if one is not None]


def _open(address: _Address) -> socket.socket:
    sock = socket.socket(*address[:3])
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _numeric(host: str, port: int) -> list[_Address]:
    """Return the address of a numeric host; an empty list for a name, which must be looked up."""
    with contextlib.suppress(socket.gaierror):
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return []


def _look_up(host: str, port: int, seconds: float | None) -> list[_Address]:
    # The system's resolver knows no time limit of ours: without an answer, it takes half a minute.
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    if seconds is None:
        return look_up()
    return _numeric(host, port) or run_within(seconds, look_up, "nanogpt-look-up")


async def _aconnect(address: _Address) -> socket.socket:
    sock = _open(address)
    try:
        await asyncio.get_running_loop().sock_connect(sock, address[4])
    except BaseException:
        sock.close()
        raise
    return sock
