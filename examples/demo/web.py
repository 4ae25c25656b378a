"""Page for questions in the browser, for this machine only: the pipeline of LangChain or of LlamaIndex."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import _startup  # noqa: F401  first: it handles Ctrl-C and missing packages during the imports
from cli_errors import report_errors
from command_line import DEFAULT_QUESTION, add_settings, answer, cost, open_pipeline
from corpus import Passage
from nicegui import app, run, ui
from nicegui.events import GenericEventArguments
from openai import OpenAIError
from prompts import RetrievedPassage, resolve_citations
from settings import DATA, Pipeline, Service
from starlette.middleware.trustedhost import TrustedHostMiddleware

from nanogpt_core import NanoGPTError

HOST = "127.0.0.1"
PIPELINES = {
    "langchain": ("langchain_pipeline", "LangChainPipeline"),
    "llama-index": ("llama_index_pipeline", "LlamaIndexPipeline"),
}
STYLE = Path(__file__).with_name("web.css")


class Page:
    """One browser window.

    Args:
        pipeline: The pipeline, shared by all windows.
        service: The API that the pipeline talks to.
        chat_price: US dollars per million tokens in prompts and in answers, or None if unknown.
    """

    def __init__(self, pipeline: Pipeline, service: Service, chat_price: Sequence[float] | None) -> None:
        self.pipeline, self.chat_price = pipeline, chat_price
        self.busy = False
        ui.add_css(STYLE)
        with ui.element("div").classes("page"):  # inside NiceGUI's own <main>
            _text("h1", "Ask Python's own documentation")
            _text("p", f"Talking to {service.name}.").classes("service")
            with ui.element("form").classes("ask").props('role="search" action="javascript:void 0"') as form:
                self.question = ui.input("Your question", placeholder=DEFAULT_QUESTION)
                self.question.classes("question").props("outlined autofocus autocomplete=off maxlength=2000")
                self.button = ui.button("Ask").props("type=submit unelevated no-caps text-color=button")
            # By the button or Enter. With the field's content: the field's own event may arrive later than this one.
            content = "event => emit(event.target.querySelector('input').value)"
            form.on("submit.prevent", self.ask, js_handler=content)
            with ui.element("div").classes("columns"):
                with ui.element("section").props('aria-labelledby="answer-title"'):
                    _text("h2", "Answer").props("id=answer-title")
                    self.answer = _text("div", "Nothing asked yet.").classes("answer")
                    self.answer.props('role="status" aria-busy="false"')
                    self.error = _text("p", "").classes("error").props('role="alert"')
                    self.sources = ui.element("ul").classes("sources").props('aria-label="Sources cited"')
                with ui.element("section").props('aria-labelledby="passages-title"'):
                    _text("h2", "Passages found").props("id=passages-title")
                    self.passages = ui.element("ol").classes("passages")
            self.cost = _text("footer", self._cost()).classes("cost")

    async def ask(self, event: GenericEventArguments) -> None:
        """Answer the question in the field; ignored while another question is being answered."""
        question = event.args.strip() or DEFAULT_QUESTION
        if self.busy:
            return
        self._set_busy(True)
        self.question.set_value(question)
        self._set(self.answer, "Looking …")
        self._set(self.error, "")
        self.sources.clear()
        self.passages.clear()
        try:
            await self._answer(question)
        except Exception as error:
            self._set(self.answer, "No answer.")
            self._set(self.error, self._readable(error))
            if not isinstance(error, NanoGPTError | OpenAIError):
                raise  # an error of the page or the pipeline, which is logged too
        finally:
            self._set(self.cost, self._cost())
            self._set_busy(False)

    def _set_busy(self, busy: bool) -> None:
        # Not disabled: a disabled button loses the keyboard's focus.
        self.busy = busy
        self.button.props(f'aria-disabled="{str(busy).lower()}"')
        self.answer.props(f'aria-busy="{str(busy).lower()}"')

    async def _answer(self, question: str) -> None:
        found = await run.io_bound(self.pipeline.retrieve, question)
        self._show_passages(found)
        pieces, text = answer(self.pipeline, question, found), ""
        while (piece := await run.io_bound(next, pieces, None)) is not None:
            text += piece
            if text:
                self._set(self.answer, text)
        self._show_sources(resolve_citations(text, found))

    def _show_passages(self, found: Sequence[RetrievedPassage]) -> None:
        with self.passages:
            for number, passage in enumerate(found, 1):
                with ui.element("li").classes("passage").props(f'id="passage-{number}"'):
                    with ui.element("div").classes("head"):
                        _text("span", f"[{number}]").classes("number")
                        _text("span", passage.source).classes("name")
                        _text("span", f"{passage.score:.3f}").classes("score").props('title="score, at most 1"')
                    _text("div", passage.text.removeprefix(f"{passage.source}:").strip()).classes("text").props(
                        "tabindex=0"
                    )
            if not found:
                _text("li", "None is near enough to the question.").classes("none")

    def _show_sources(self, sources: dict[int, RetrievedPassage | None]) -> None:
        with self.sources:
            for number, passage in sources.items():
                with ui.element("li"):
                    if passage:
                        _text("a", f"[{number}] {passage.source}").props(f'href="#passage-{number}"')
                    else:
                        _text("span", f"[{number}] no such passage: the model made this citation up")

    def _cost(self) -> str:
        return cost(self.pipeline, self.chat_price)

    @staticmethod
    def _readable(error: Exception) -> str:
        if isinstance(error, NanoGPTError | OpenAIError):
            return str(error)
        return f"Internal error ({type(error).__name__}); the terminal has the details."

    @staticmethod
    def _set(element: ui.element, text: str) -> None:
        element.props["textContent"] = text
        element.update()


def _text(tag: str, text: str) -> ui.element:
    # Text, never Markdown or HTML: a passage or an answer could load a picture from a foreign server.
    element = ui.element(tag)
    element.props["textContent"] = text
    return element


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--framework", choices=PIPELINES, default="langchain", help="framework of the pipeline (default: %(default)s)"
    )
    parser.add_argument("--port", type=_port, default=8080, help="port on 127.0.0.1 (default: %(default)s)")
    parser.add_argument("--browser", action="store_true", help="open the page in a browser")
    add_settings(parser, DATA / "web")  # a folder of its own: only one process at a time can open Qdrant's
    return parser.parse_args(words)


def _port(word: str) -> int:
    number = int(word)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError("must be from 1 to 65535")
    return number


def check_free(port: int) -> None:
    """End the program if the port cannot be used, before passages are embedded."""
    with socket.socket() as trial:
        if os.name != "nt":
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
        try:
            trial.bind((HOST, port))
        except OSError as error:
            sys.exit(f"error: Port {port} of {HOST} cannot be used ({error.strerror}). Name another one with --port.")


def main(words: Sequence[str] | None = None, load: Callable[[], list[Passage]] | None = None) -> None:
    """Fill the index, and serve the page until the process is stopped.

    Args:
        words: Arguments of the command line; None for those of the process.
        load: Reads the documents; None for Python's own documentation.
    """
    options = arguments(words)
    check_free(options.port)
    module, name = PIPELINES[options.framework]
    make = getattr(importlib.import_module(module), name)
    with (
        report_errors(),
        open_pipeline(make, options, "RAG over Python's own documentation", load) as (service, pipeline),
    ):
        # Otherwise a foreign page could reach this one by a host name that resolves to 127.0.0.1.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        # Uvicorn would print a line of 300 characters for each window.
        logging.getLogger("uvicorn.error").addFilter(lambda record: "WebSocket" not in record.getMessage())
        ui.run(
            lambda: Page(pipeline, service, options.chat_price),
            host=HOST,
            port=options.port,
            title="Ask Python's own documentation",
            favicon="🐍",
            dark=None,
            language="en-US",  # lang="en-US" on <html>
            show=options.browser,
            reload=False,
            tailwind=False,
            show_welcome_message=False,
            uvicorn_logging_level="info",  # prints the address of the page, or the reason why there is none
            access_log=False,
        )


if __name__ == "__main__":
    main()
