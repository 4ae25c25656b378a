"""What the demos share: where to connect, the settings, the command line, and how an answer is shown."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol

import ctrl_c  # noqa: F401  the first of all slow imports: they too can be broken off
from corpus import Passage, load_documents
from endings import readable_damage, readable_errors
from openai import OpenAIError
from prompting import DONT_KNOW, Found, cited

from nanogpt_core import NanoGPTError, Usage, get_model
from nanogpt_core.http.endpoint import DEFAULT_BASE_URL, KEY_VARIABLES
from nanogpt_core.models.tokens import TokenCounter

DEFAULT_QUESTION = "How can I merge several sorted inputs into one sorted stream?"
DATA = Path(__file__).resolve().parents[2] / ".nanogpt-demo"
MOST_CHUNK_TOKENS = 400
"""Longer chunks hold several matters, and their vectors none of them well."""
SANDBOX_MIN_SCORE = 0.28
"""Measured: all 30 English answers that are found stay, 18 of 20 questions on other matters find nothing."""


@dataclass(frozen=True)
class Service:
    """What a demo talks to: NanoGPT, or the sandbox on this machine."""

    name: str
    api_key: str
    base_url: str
    is_sandbox: bool = False

    @property
    def slug(self) -> str:
        """A name for folders: vectors of different services must not meet, and the sandbox's port changes."""
        return "sandbox" if self.is_sandbox else re.sub(r"\W+", "-", self.base_url).strip("-")


@dataclass(frozen=True)
class Settings:
    """How a pipeline works.

    Attributes:
        data: The folder that keeps the indexes.
        model: The embedding model.
        chat_model: The chat model.
        k: How many passages go into the prompt.
        mmr: Whether to prefer passages that differ from each other, among the 4 k nearest.
        min_score: Least score of a passage that counts as found; None for the default of the service.
    """

    data: Path = DATA
    model: str = "text-embedding-3-small"
    chat_model: str = "gpt-4o-mini"
    k: int = 5
    mmr: bool = False
    min_score: float | None = None

    @property
    def chunk_tokens(self) -> int:
        """Tokens of a chunk: 400, or three quarters of the model's limit, so that there is room for a name."""
        return min(MOST_CHUNK_TOKENS, (get_model(self.model).max_tokens or MOST_CHUNK_TOKENS) * 3 // 4)

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a text in the model's own tokenizer, or a little more."""
        return TokenCounter(get_model(self.model)).count(text)

    def least_score(self, service: Service) -> float:
        """Return the score below which a passage is not found: a matter of the model, known for the sandbox alone."""
        return self.min_score if self.min_score is not None else SANDBOX_MIN_SCORE if service.is_sandbox else 0.0

    def folder(self, service: Service, framework: str) -> Path:
        """Return a folder for what one framework keeps: an index for each service, model and chunk size."""
        model = re.sub(r"[^\w.-]+", "-", self.model)
        folder = self.data / framework / f"{service.slug}-{model}-{self.chunk_tokens}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def cache(self, service: Service) -> Path | None:
        """Return the file that keeps what was paid for, whatever becomes of an index; the sandbox costs nothing."""
        return None if service.is_sandbox else self.data / "paid.sqlite"


@dataclass(frozen=True)
class Ingested:
    """What an ingest did, in passages or documents, as the framework counts."""

    what: str
    added: int
    removed: int | None
    unchanged: int


class Pipeline(Protocol):
    """What the command line, and a page or a notebook, needs of a pipeline."""

    def ingest(self, documents: Sequence[Passage]) -> Ingested:
        """Make the index hold these documents and no others; only what is new is embedded."""

    def retrieve(self, question: str) -> list[Found]:
        """Return the passages for a question, best first."""

    def prompt(self, question: str, found: Sequence[Found]) -> list[tuple[str, str]]:
        """Return the messages that :meth:`stream` sends: role and text of each."""

    def stream(self, question: str, found: Sequence[Found]) -> Iterator[str]:
        """Yield the answer piece by piece."""

    @property
    def embedded(self) -> Usage:
        """What embedding took so far."""

    @property
    def chat_tokens(self) -> tuple[int, int]:
        """Tokens of all prompts and of all answers so far."""

    def close(self) -> None:
        """Close what is open."""


@contextlib.contextmanager
def connect() -> Iterator[Service]:
    """Yield NanoGPT where the environment holds a key, else a sandbox that runs until the end of the block."""
    key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
    if key:
        url = os.environ.get("NANOGPT_BASE_URL") or DEFAULT_BASE_URL
        yield Service(f"NanoGPT at {url}", key, url)
        return
    from nanogpt_core import Sandbox

    with Sandbox() as sandbox:
        name = "the sandbox on this machine (word matching and quoting, no language model; NANOGPT_API_KEY is not set)"
        yield Service(name, sandbox.api_key, sandbox.base_url, is_sandbox=True)


def arguments(description: str, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("question", nargs="?", help=f"what to ask about Python (default: {DEFAULT_QUESTION!r})")
    parser.add_argument("-i", "--interactive", action="store_true", help="ask one question after another")
    parser.add_argument("--show-prompt", action="store_true", help="print the prompt that goes out, word for word")
    add_settings(parser)
    return parser.parse_args(words)


def add_settings(parser: argparse.ArgumentParser, data: Path = DATA) -> None:
    """Add the options of a pipeline, and of its costs, to a command line."""
    parser.add_argument("-k", type=positive, default=Settings.k, help="how many passages to use (default: 5)")
    parser.add_argument("--mmr", action="store_true", help="prefer passages that differ from each other")
    parser.add_argument("--min-score", type=_score, help="least score of a passage (default: 0; in the sandbox 0.28)")
    parser.add_argument("--model", default=Settings.model, help="embedding model")
    parser.add_argument("--chat-model", default=Settings.chat_model, help="chat model")
    parser.add_argument("--chat-price", type=float, nargs=2, metavar=("IN", "OUT"), help="US dollars a million tokens")
    parser.add_argument("--data", type=Path, default=data, help=f"folder that keeps the index (default: {data})")


def positive(word: str) -> int:
    """Return the number of an option that must be at least 1."""
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _score(word: str) -> float:
    number = float(word)
    if not -1 <= number <= 1:
        raise argparse.ArgumentTypeError("must be from -1 to 1")
    return number


def questions(options: argparse.Namespace) -> Iterator[str]:
    """Yield the questions to answer: the one of the command line, or what is typed in."""
    if options.question or not options.interactive:
        yield options.question or DEFAULT_QUESTION
    while options.interactive:
        try:
            question = input("\nYour question (empty to stop): ").strip()
        except EOFError:
            return
        if not question:
            return
        yield question


def answer(pipeline: Pipeline, question: str, found: Sequence[Found]) -> Iterator[str]:
    """Yield the answer piece by piece. Where nothing was found, no model is asked."""
    if found:
        yield from pipeline.stream(question, found)
    else:
        yield f"{DONT_KNOW} No passage is near enough to the question."


def show(pipeline: Pipeline, question: str, options: argparse.Namespace) -> None:
    """Answer one question, and print all that belongs to it."""
    print(f"\nQuestion: {question}\n\nPassages found:")
    found = pipeline.retrieve(question)
    for number, passage in enumerate(found, 1):
        body = " ".join(passage.text.removeprefix(f"{passage.source}:").split())
        print(f"  [{number}] {passage.score:.3f}  {passage.source}: {body[:90]}{'…' if len(body) > 90 else ''}")
    if options.show_prompt and found:
        for role, text in pipeline.prompt(question, found):
            print(f"\n--- {role}\n{text}")
        print("---")
    print()
    pieces = []
    for piece in answer(pipeline, question, found):
        pieces.append(piece)
        print(piece, end="", flush=True)
    print("\n")
    for number, passage in cited("".join(pieces), found).items():
        print(f"  [{number}] = {passage.source if passage else 'no such passage: the model made this citation up'}")
    print(f"\n{cost(pipeline, options.chat_price)}")


def cost(pipeline: Pipeline, chat_price: Sequence[float] | None = None) -> str:
    """Say what a pipeline took so far; ``chat_price`` is in US dollars for a million tokens in and out."""
    used, (asked, said) = pipeline.embedded, pipeline.chat_tokens
    tokens = "unknown" if used.prompt_tokens is None else f"{used.prompt_tokens:,}"
    embedding = "price unknown" if used.cost_usd is None else f"${used.cost_usd:.6f} at list price"
    chat = "its price is not known here, see --chat-price"
    if chat_price:
        chat = f"${(asked * chat_price[0] + said * chat_price[1]) / 1e6:.6f}"
    return f"Embedding: {tokens} tokens, {embedding}. Chat: {asked:,} tokens in, {said:,} out, {chat}."


def main(
    make: Callable[[Service, Settings], Pipeline],
    description: str,
    words: Sequence[str] | None = None,
    load: Callable[[], list[Passage]] = load_documents,
) -> None:
    """Run a demo; an error ends it with a message instead of a traceback."""
    options = arguments(description, words)
    with readable_errors(), opened(make, options, description, load) as (service, pipeline):
        for question in questions(options):
            try:
                show(pipeline, question, options)
            except (NanoGPTError, OpenAIError) as error:
                if not options.interactive:
                    raise
                print(f"error: {error}")  # a question too long, for example: the next may be answered
        print(f"Talked to {service.name}.")


@contextlib.contextmanager
def opened(
    make: Callable[[Service, Settings], Pipeline],
    options: argparse.Namespace,
    description: str,
    load: Callable[[], list[Passage]],
) -> Iterator[tuple[Service, Pipeline]]:
    """Yield the service and a pipeline whose index holds the documents, and say what was done for it."""
    find_vocabulary()
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    with connect() as service, contextlib.ExitStack() as open_now:
        print(f"{description}\nTalking to {service.name}.\n", flush=True)
        documents = load()
        with readable_damage(settings.data):
            pipeline = open_now.enter_context(contextlib.closing(make(service, settings)))
            done = pipeline.ingest(documents)
        removed = "" if done.removed is None else f"{done.removed:,} removed, "
        print(f"Index: {done.added:,} {done.what} embedded, {removed}{done.unchanged:,} unchanged.", flush=True)
        yield service, pipeline


def find_vocabulary() -> None:
    """Let tiktoken find its vocabulary on this machine."""
    # tiktoken would download a file that LlamaIndex has in its package; a demo can run without network.
    package = importlib.util.find_spec("llama_index.core") if importlib.util.find_spec("llama_index") else None
    if package and package.origin:
        folder = Path(package.origin).parent / "_static" / "tiktoken_cache"
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))
