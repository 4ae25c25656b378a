"""The sandbox as a context manager: a real HTTP server in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import anyio.lowlevel  # comes with starlette
import uvicorn

from nanogpt_core._runtime.validation import check_option_names
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.sandbox.app import SandboxApp
from nanogpt_core.sandbox.config import SandboxConfig
from nanogpt_core.sandbox.request_log import RecordedRequest
from nanogpt_core.sandbox.script import Fault, Reply, check_faults

if TYPE_CHECKING:
    from typing_extensions import Self

_BACKLOG = 2048  # connections that wait to be accepted
_GRACE_SECONDS = 1  # for requests in progress at the end


class Sandbox:
    """A local NanoGPT API: it answers from a thread of this process, inside of a ``with`` block.

    Args:
        **options: The fields of :class:`SandboxConfig`, by their names.

    Attributes:
        config: The options. Those of replies may change while it runs, as in ``sandbox.config.latency = 0.1``; setting
            one that the server has read is an error. Faults and replies of a script are added with :meth:`add_faults`
            and :meth:`add_replies`.

    Raises:
        ConfigurationError: An invalid option. It is a ``ValueError``.
        InvalidTypeError: An option is unknown or of the wrong type. It is a ``TypeError``.

    Example:
        >>> with Sandbox() as sandbox:
        ...     embedder = Embedder(api_key=sandbox.api_key, base_url=sandbox.base_url)
        ...     embedder.embed(["Bees make honey."])
    """

    def __init__(self, **options: Any) -> None:
        check_option_names(options, SandboxConfig.__slots__, {})
        self.config = SandboxConfig(**options)
        self._app = SandboxApp(self.config)
        self._thread: threading.Thread | None = None
        self._server: uvicorn.Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._root = ""

    def __setattr__(self, name: str, value: object) -> None:
        if name in SandboxConfig.__slots__:
            raise AttributeError(f"{name} is an option. Set it as sandbox.config.{name}.", name=name)
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<Sandbox {self._root or 'not started'}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def base_url(self) -> str:
        """The base URL for clients, such as ``http://127.0.0.1:49152/api/v1``."""
        return f"{self.root_url}/api/v1"

    @property
    def root_url(self) -> str:
        """The URL without a path, for the routes outside of ``/api/v1``."""
        if not self._root:
            raise ConfigurationError("The sandbox has no address before it is started.", remedy="Use it in `with`.")
        return self._root

    @property
    def api_key(self) -> str:
        """The key that requests must carry."""
        return self.config.api_key

    @property
    def requests(self) -> list[RecordedRequest]:
        """The latest requests, oldest first; a copy."""
        return self._app.log.snapshot()

    def clear(self) -> None:
        """Clear the log of requests."""
        self._app.log.clear()

    def reset(self) -> None:
        """Clear the log of requests, and drop all replies and added faults that were not used."""
        self._app.log.clear()
        self._app.script.clear()
        self._app.more_faults.clear()

    def add_faults(self, *faults: Fault | None) -> None:
        """Queue faults for the next embeddings and chat requests, before those of the option ``faults``."""
        check_faults("faults", faults)
        self._app.more_faults.extend(faults)

    def add_replies(self, *replies: Reply | Fault) -> None:
        """Append replies to the script."""
        self._app.script.add(replies)

    @property
    def replies_left(self) -> int:
        """Number of script entries not used yet."""
        return len(self._app.script)

    def start(self) -> None:
        """Start the server; it accepts connections when this method returns.

        Raises:
            ConfigurationError: The sandbox is running already, its address is not available, or the process has no file
                descriptors left.
        """
        if self._thread is not None:
            raise ConfigurationError("The sandbox is running already.")
        listener = self._listen()
        server, started = uvicorn.Server(self._uvicorn_config()), Future[asyncio.AbstractEventLoop]()
        thread = threading.Thread(
            target=self._run, args=(server, listener, started), name="nanogpt-sandbox", daemon=True
        )
        self._server, self._thread = server, thread
        try:
            thread.start()
            self._loop = started.result()
        except BaseException as error:
            server.should_exit = True  # after Ctrl-C
            self._server = self._thread = None
            if isinstance(error, OSError):
                raise ConfigurationError(f"The sandbox cannot start: {error.strerror or error}.") from error
            raise

    def close(self) -> None:
        """Stop the server, if it runs. The recorded requests stay readable."""
        if self._thread is None or self._server is None or self._loop is None:
            return
        self._server.should_exit = True
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._app.closing.set)
        self._thread.join()
        self._thread = self._server = self._loop = None

    def _listen(self) -> socket.socket:
        host = self.config.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            # Bound here, not in the thread: the port is known, and connections queue, before the server runs.
            listener = socket.create_server((host, self.config.port), family=family, backlog=_BACKLOG)
        except OSError as error:
            where = f"{host}:{self.config.port}"
            reason = (error.strerror or str(error)).partition(" (while")[0]
            remedy = "Choose another host or another port; port 0 takes a free one."
            raise ConfigurationError(f"Cannot listen on {where}: {reason}.", remedy=remedy) from error
        # asyncio sets it only for its own sockets; without it each small reply waits 40 ms for the client's late ACK.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        shown = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - what to call it, not a bind
        self._root = f"http://{f'[{shown}]' if ':' in shown else shown}:{listener.getsockname()[1]}"
        return listener

    def _uvicorn_config(self) -> uvicorn.Config:
        return uvicorn.Config(
            self._app.starlette(),
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,  # logging belongs to the program that the sandbox runs in
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=_BACKLOG,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )

    def _run(self, server: uvicorn.Server, listener: socket.socket, started: Future[asyncio.AbstractEventLoop]) -> None:
        async def serve() -> None:
            # Both import modules, while `start` waits. A child that was forked during an import would wait for ever.
            server.config.load()
            await anyio.lowlevel.checkpoint()
            self._app.closing = asyncio.Event()
            started.set_result(asyncio.get_running_loop())
            await server.serve(sockets=[listener])

        with listener, contextlib.closing(serve()) as serving:
            try:
                asyncio.run(serving)
            except BaseException as error:  # no event loop could be made
                if started.done():
                    raise
                started.set_exception(error)
