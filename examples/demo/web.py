"""A page to ask, in the browser: the pipeline of rag_langchain.py or rag_llama_index.py, for this machine alone."""

from __future__ import annotations

import argparse
import importlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from common import DATA, DEFAULT_QUESTION, Pipeline, Service, add_settings, answer, cost, opened
from corpus import Passage, load_documents
from endings import readable_errors
from nicegui import app, run, ui
from openai import OpenAIError
from prompting import Found, cited
from starlette.middleware.trustedhost import TrustedHostMiddleware

from nanogpt_core import NanoGPTError

HOST = "127.0.0.1"
PIPELINES = {
    "langchain": ("rag_langchain", "LangChainPipeline"),
    "llama-index": ("rag_llama_index", "LlamaIndexPipeline"),
}
STYLE = Path(__file__).with_name("web.css")


class Page:
    """One browser window.

    Args:
        pipeline: What answers; all windows share it.
        service: What the pipeline talks to.
        chat_price: US dollars for a million tokens in and out, where known.
    """

    def __init__(self, pipeline: Pipeline, service: Service, chat_price: Sequence[float] | None) -> None:
        self.pipeline, self.chat_price = pipeline, chat_price
        ui.add_css(STYLE)
        with ui.element("div").classes("page"):  # inside NiceGUI's own <main>
            _text("h1", "Ask Python's own documentation")
            _text("p", f"Talking to {service.name}.").classes("service")
            with ui.element("form").classes("ask").props('role="search" action="javascript:void 0"') as form:
                self.question = ui.input("Your question", placeholder=DEFAULT_QUESTION)
                self.question.classes("question").props("outlined autofocus autocomplete=off maxlength=2000")
                self.button = ui.button("Ask").props("type=submit unelevated no-caps text-color=button")
            form.on("submit.prevent", self.ask)  # the button, and Enter
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

    async def ask(self) -> None:
        """Answer what is in the field; a second time is for after the answer."""
        question = (self.question.value or "").strip() or DEFAULT_QUESTION
        if not self.button.enabled:
            return
        self.button.disable()
        self.question.set_value(question)
        self.answer.props('aria-busy="true"')
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
                raise  # a fault of the page or the pipeline, which belongs into the log too
        finally:
            self._set(self.cost, self._cost())
            self.answer.props('aria-busy="false"')
            self.button.enable()

    async def _answer(self, question: str) -> None:
        found = await run.io_bound(self.pipeline.retrieve, question)
        self._show_passages(found)
        pieces, text = answer(self.pipeline, question, found), ""
        while (piece := await run.io_bound(next, pieces, None)) is not None:
            text += piece
            if text:
                self._set(self.answer, text)
        self._show_sources(cited(text, found))

    def _show_passages(self, found: Sequence[Found]) -> None:
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

    def _show_sources(self, sources: dict[int, Found | None]) -> None:
        with self.sources:
            for number, passage in sources.items():
                with ui.element("li"):
                    if passage:
                        _text("a", f"[{number}] {passage.source}").props(f'href="#passage-{number}"')
                    else:
                        _text("span", f"[{number}] no such passage: the model made this citation up")

    def _cost(self) -> str:
        return f"Since the start. {cost(self.pipeline, self.chat_price)}"

    @staticmethod
    def _readable(error: Exception) -> str:
        if isinstance(error, NanoGPTError | OpenAIError):
            return str(error)
        return f"Something is wrong here ({type(error).__name__}); the terminal says more."

    @staticmethod
    def _set(element: ui.element, text: str) -> None:
        element.props["textContent"] = text
        element.update()


def _text(tag: str, text: str) -> ui.element:
    # Text, and never Markdown or HTML: a passage or an answer could bring a picture that tells a stranger it was read.
    element = ui.element(tag)
    element.props["textContent"] = text
    return element


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--framework", choices=PIPELINES, default="langchain", help="whose pipeline (default: langchain)"
    )
    parser.add_argument("--port", type=_port, default=8080, help="port on 127.0.0.1 (default: 8080)")
    parser.add_argument("--browser", action="store_true", help="open the page in a browser")
    add_settings(parser, DATA / "web")  # Qdrant's folder belongs to one process: the demos keep their own
    return parser.parse_args(words)


def _port(word: str) -> int:
    number = int(word)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError("must be from 1 to 65535")
    return number


def check_free(port: int) -> None:
    """End the program where the page cannot listen: before passages are embedded for it."""
    with socket.socket() as trial:
        if os.name != "nt":
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will: one that ended is no bar
        try:
            trial.bind((HOST, port))
        except OSError as error:
            sys.exit(f"error: Port {port} of {HOST} cannot be had ({error.strerror}). Name another with --port.")


def main(words: Sequence[str] | None = None, load: Callable[[], list[Passage]] = load_documents) -> None:
    """Fill the index, and serve the page until the process is stopped."""
    options = arguments(words)
    check_free(options.port)
    module, name = PIPELINES[options.framework]
    make = getattr(importlib.import_module(module), name)
    with readable_errors(), opened(make, options, "RAG over Python's own documentation", load) as (service, pipeline):
        # A page elsewhere could otherwise reach this one under a name of its own that leads to 127.0.0.1.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
        ui.run(
            lambda: Page(pipeline, service, options.chat_price),
            host=HOST,
            port=options.port,
            title="Ask Python's own documentation",
            favicon="🐍",
            dark=None,
            show=options.browser,
            reload=False,
            tailwind=False,
            show_welcome_message=False,
            uvicorn_logging_level="info",  # says where the page is once it is there, or why it is not
            access_log=False,
        )


if __name__ == "__main__":
    main()
