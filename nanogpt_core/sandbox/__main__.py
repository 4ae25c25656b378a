"""``python -m nanogpt_core.sandbox``: runs the sandbox in the foreground."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from nanogpt_core.errors import ConfigurationError
from nanogpt_core.sandbox import DEFAULT_API_KEY, Sandbox

DEFAULT_PORT = 8765


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGINT (Ctrl-C) or SIGTERM; return the exit status: 0 after a stop, 2 for invalid options."""
    options = vars(make_parser().parse_args(arguments))
    try:
        return serve(**options)
    except ConfigurationError as error:
        sys.stderr.write(f"nanogpt_core.sandbox: {error}\n")
        return 2


def serve(**options: Any) -> int:
    """Serve until SIGINT (Ctrl-C) or SIGTERM, and return 0; the options are those of :class:`~nanogpt_core.Sandbox`."""
    stop = threading.Event()
    # Set explicitly: a shell starts background jobs with SIGINT ignored.
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with Sandbox(**options) as sandbox:
            _greet(sandbox)
            # Not one endless wait, which on Windows Ctrl-C does not interrupt.
            while not stop.wait(0.5):
                pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _greet(sandbox: Sandbox) -> None:
    sys.stdout.write(
        f"NanoGPT sandbox: vectors made of words, answers made of quotes; no model runs here.\n"
        f"Base URL: {sandbox.base_url}\n"
        f"API key:  {sandbox.api_key}\n\n"
        f"export NANOGPT_BASE_URL={shlex.quote(sandbox.base_url)}\n"
        f"export NANOGPT_API_KEY={shlex.quote(sandbox.api_key)}\n\n"
        f"Ctrl-C stops it.\n"
    )
    sys.stdout.flush()


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; its options are those of :class:`~nanogpt_core.Sandbox`."""
    parser = argparse.ArgumentParser(
        prog="python -m nanogpt_core.sandbox", description="A local NanoGPT API for demos and tests."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=DEFAULT_PORT, help="port to listen on; 0 takes a free one (default: %(default)s)")
    add("--allow-remote", action="store_true", help="let --host be an address that other machines can reach")
    add("--api-key", default=DEFAULT_API_KEY, help="key that requests must carry (default: %(default)s)")
    add("--latency", type=float, default=0.0, metavar="SECONDS", help="minimum duration of every request")
    add("--requests-per-second", type=float, metavar="N", help="answer 429 over this rate (default: no limit)")
    add("--requests-per-day", type=int, metavar="N", help="answer 429 over this number in a day (default: no limit)")
    add("--reference-page", action="store_true", help="the models and errors of NanoGPT's reference page")
    add("--report-cost", action="store_true", help="give the cost in replies")
    add(
        "--width-source",
        choices=("true", "listed"),
        default="true",
        help="vector widths: model cards, or NanoGPT's page",
    )
    add(
        "--no-vendor-limits",
        dest="vendor_limits",
        action="store_false",
        default=None,
        help="2048 items for any model",
    )
    add("--refuse-base64", action="store_true", help='answer 400 to encoding_format="base64"')
    add("--ignore-base64", action="store_true", help="answer floats for every encoding_format")
    add("--shuffle", action="store_true", help="return embeddings out of order")
    return parser


if __name__ == "__main__":
    sys.exit(main())
