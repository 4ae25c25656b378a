"""Sixteen calls of one text at once, which share a request, in place of one call of eight texts."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import threading
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.faults.server import Pause, Reply, Request, Step, good
from benchmarks.faults.vectors import is_right

GATHERED = "core, 16 calls"
"""The name of the client."""

CALLS = 16
"""Calls at once: two of each text."""

_FIRST_TEXT = "a text that goes first"
_HOLD_SECONDS = 0.2  # calls gather while the only slot is taken, for a quarter of a second at most
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.005


def gathering(reply: Reply) -> Reply:
    """Return the reply after a first request that takes a while, so that further calls gather."""

    def answer(request: Request) -> Iterable[Step]:
        if request.texts == [_FIRST_TEXT]:
            return [Pause(_HOLD_SECONDS), *good(request)]
        return reply(dataclasses.replace(request, number=request.number - 1))

    return answer


def embed_gathered(embed: Callable[[list[str]], Any], url: str, texts: list[str]) -> Any:
    """Embed each text in two calls, all at once, in threads; return the vectors.

    Raises:
        Exception: The first error of a call.
    """
    found: dict[int, Any] = {}
    errors: list[Exception] = []

    def work(number: int, text: str) -> None:
        try:
            found[number] = embed([text])
        except Exception as error:  # noqa: BLE001 - any error of a client is a result
            errors.append(error)

    first = threading.Thread(target=work, args=(-1, _FIRST_TEXT))
    first.start()
    pause = threading.Event()
    for _ in range(int(_PATIENCE_SECONDS / _POLL_SECONDS)):
        if not first.is_alive() or _requests(url):
            break
        pause.wait(_POLL_SECONDS)
    threads = [threading.Thread(target=work, args=call) for call in enumerate(texts * 2)]
    for thread in threads:
        thread.start()
    for thread in (first, *threads):
        thread.join()
    return _vectors(found, errors, texts)


async def aembed_gathered(aembed: Callable[[list[str]], Any], url: str, texts: list[str]) -> Any:
    """Embed each text in two calls, all at once, in tasks; see :func:`embed_gathered`."""
    found: dict[int, Any] = {}
    errors: list[Exception] = []

    async def work(number: int, text: str) -> None:
        try:
            found[number] = await aembed([text])
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    first = asyncio.ensure_future(work(-1, _FIRST_TEXT))
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_sent(url, first), _PATIENCE_SECONDS)
    await asyncio.gather(first, *(work(*call) for call in enumerate(texts * 2)))
    return _vectors(found, errors, texts)


async def _sent(url: str, first: asyncio.Future[None]) -> None:
    while not first.done() and not await asyncio.to_thread(_requests, url):  # noqa: ASYNC110 - another process's event
        await asyncio.sleep(_POLL_SECONDS)


def _requests(url: str) -> int:
    with urllib.request.urlopen(f"{url}/seen", timeout=_PATIENCE_SECONDS) as reply:
        return int(json.loads(reply.read()))


def _vectors(found: dict[int, Any], errors: list[Exception], texts: list[str]) -> Any:
    given = {number: text for number, text in enumerate(texts * 2) if number in found}
    if not all(is_right([text], found[number]) for number, text in given.items()):
        return []  # wrong, whatever the other calls got
    if errors:
        raise errors[0]
    return [found[number][0] for number in range(len(texts))]
