"""The OpenAI SDK: its clients for NanoGPT, and its HTTP library: ``httpx`` in openai 2.x, ``httpx2`` in 3.x.

Imported at the first request, since the SDK takes most of a second to import.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import openai

from nanogpt_core.http.endpoint import Endpoint

# The SDK re-exports names under its own; the class that its default client extends still tells the library.
httpx: Any = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
"""``httpx`` or ``httpx2``, as the installed SDK uses by default."""

httpcore: Any = importlib.import_module(httpx.__name__.replace("httpx", "httpcore"))
"""``httpcore`` or ``httpcore2``, which :data:`httpx` stands on."""

SDK_KEY = "in-the-transport"
"""The SDK requires a key; the transports replace this one."""

# Vectors in base64 hardly shrink, and a compressed reply costs both ends more than it saves.
SDK_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": f"nanogpt-rag openai-python/{openai.__version__}",
}
"""Headers of every request, for the SDK's clients. The endpoint's headers replace them."""

OMITTED_HEADERS: dict[str, Any] = dict.fromkeys(
    ("Authorization", "x-stainless-read-timeout", "x-stainless-retry-count"), openai.Omit()
)
"""For a request: leave out the SDK's placeholder for the key, which the transport would replace, and notes that it
would drop. They take 6 % of the bytecodes of a query."""

_CONNECT_SECONDS = 10.0

Client = TypeVar("Client", bound="openai.OpenAI | openai.AsyncOpenAI")


class NoMachineHeaders:
    """A part of clients: without the SDK's headers that describe this machine, for which it would read files."""

    platform_headers: ClassVar[Callable[[], dict[str, str]]] = dict  # called for each request: no headers


class PlainClient(NoMachineHeaders, openai.OpenAI):
    """A client for requests whose bodies are bytes.

    Instrumentation of other packages replaces ``openai.OpenAI.request``, and reads the model from bodies that are
    dictionaries. Of ours it would make a span without a model beside the one of this project.
    """

    request = super(openai.OpenAI, openai.OpenAI).request


class AsyncPlainClient(NoMachineHeaders, openai.AsyncOpenAI):
    """An async client for requests whose bodies are bytes; see :class:`PlainClient`."""

    request = super(openai.AsyncOpenAI, openai.AsyncOpenAI).request


def make_client(kind: type[Client], endpoint: Endpoint, transport: Any) -> Client:
    """Return a client that never follows a redirect. A sync one may be used in any thread, and after a fork.

    It has neither the headers of ``OPENAI_*`` variables nor those that describe this machine. The ``transport`` adds
    key and headers, so no object of the SDK holds them.
    """
    http_client = httpx.AsyncClient if issubclass(kind, openai.AsyncOpenAI) else httpx.Client
    client: Any = kind(
        http_client=http_client(transport=transport),
        api_key=SDK_KEY,
        base_url=endpoint.base_url,
        timeout=httpx.Timeout(endpoint.timeout, connect=min(_CONNECT_SECONDS, endpoint.timeout)),
        max_retries=0,  # the one retry layer is ours
    )
    own: dict[str, Any] = {
        **SDK_HEADERS,
        "Authorization": f"Bearer {SDK_KEY}",  # the SDK needs one; the transport replaces it
    }
    names = client.default_headers.keys() - own.keys()  # those of OPENAI_* variables too
    # OPENAI_CUSTOM_HEADERS may name one of our own with another case, which openai 3 takes for the same name.
    values = {name.lower(): value for name, value in own.items()}
    foreign = {name: values.get(name.lower(), openai.Omit()) for name in names}
    copy: Client = client.copy(default_headers={**foreign, **own})
    copy.organization = copy.project = copy.webhook_secret = copy.admin_api_key = None
    return copy
