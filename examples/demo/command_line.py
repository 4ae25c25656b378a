"""Command line of the demo: options, answers, sources and costs."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path

import _startup  # noqa: F401  first: it handles Ctrl-C and missing packages during the imports
from cli_errors import report_errors, report_index_damage
from corpus import Passage, load_documents
from openai import OpenAIError
from prompts import DONT_KNOW, RetrievedPassage, resolve_citations
from settings import DATA, Pipeline, Service, Settings, connect

from nanogpt_core import NanoGPTError

DEFAULT_QUESTION = "How can I merge several sorted inputs into one sorted stream?"
SMALLEST_USD = 0.000001


def arguments(description: str, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("question", nargs="?", help=f"question about Python (default: {DEFAULT_QUESTION!r})")
    parser.add_argument("-i", "--interactive", action="store_true", help="ask one question after another")
    parser.add_argument("--show-prompt", action="store_true", help="print the prompt exactly as it is sent")
    add_settings(parser)
    return parser.parse_args(words)


def add_settings(parser: argparse.ArgumentParser, data: Path = DATA) -> None:
    """Add the options of a pipeline and of its costs to a command line."""
    parser.add_argument("-k", type=positive, default=Settings.k, help="passages to use (default: %(default)s)")
    parser.add_argument("--mmr", action="store_true", help="prefer passages that differ from each other")
    parser.add_argument("--min-score", type=_score, help="lowest score of a passage (default: 0; sandbox: 0.28)")
    parser.add_argument("--model", default=Settings.model, help="embedding model (default: %(default)s)")
    parser.add_argument("--chat-model", default=Settings.chat_model, help="chat model (default: %(default)s)")
    parser.add_argument("--chat-price", type=float, nargs=2, metavar=("IN", "OUT"), help="US dollars per 1M tokens")
    parser.add_argument("--data", type=Path, default=data, help="folder of the index (default: %(default)s)")


def positive(word: str) -> int:
    """Parse an option that must be at least 1."""
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
    """Yield the questions to answer: from the command line, or as typed in."""
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


def answer(pipeline: Pipeline, question: str, found: Sequence[RetrievedPassage]) -> Iterator[str]:
    """Yield the answer in pieces. Without passages, no model is asked."""
    if found:
        yield from pipeline.stream(question, found)
    else:
        yield f"{DONT_KNOW} No passage is near enough to the question."


def print_answer(pipeline: Pipeline, question: str, options: argparse.Namespace) -> None:
    """Answer one question, and print passages, answer, sources and costs."""
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
    for number, source in resolve_citations("".join(pieces), found).items():
        print(f"  [{number}] = {source.source if source else 'no such passage: the model made this citation up'}")
    print(f"\n{cost(pipeline, options.chat_price)}")


def cost(pipeline: Pipeline, chat_price: Sequence[float] | None = None) -> str:
    """Describe the usage since the start of the program.

    Args:
        pipeline: The pipeline whose usage is counted, with its ingest and all questions.
        chat_price: US dollars per million tokens in prompts and in answers, if known.
    """
    used, (asked, said) = pipeline.embedded, pipeline.chat_tokens
    tokens = "unknown" if used.prompt_tokens is None else f"{used.prompt_tokens:,}"
    embedding = "price unknown" if used.cost_usd is None else f"{usd(used.cost_usd)} at NanoGPT's list price"
    chat = "price unknown, see --chat-price"
    if chat_price:
        chat = usd((asked * chat_price[0] + said * chat_price[1]) / 1e6)
    return (
        f"This run so far, ingest and all questions: embedding {tokens} tokens ({embedding}); "
        f"chat {asked:,} tokens in, {said:,} out ({chat})."
    )


def usd(amount: float) -> str:
    """Format an amount in US dollars; a small amount is never shown as zero."""
    return f"under ${SMALLEST_USD:.6f}" if 0 < amount < SMALLEST_USD else f"${amount:.6f}"


def main(
    make: Callable[[Service, Settings], Pipeline],
    description: str,
    words: Sequence[str] | None = None,
    load: Callable[[], list[Passage]] | None = None,
) -> None:
    """Run the command line of one pipeline; an error ends it with a message instead of a traceback.

    Args:
        make: Builds the pipeline.
        description: First line of the output.
        words: Arguments of the command line; None for those of the process.
        load: Reads the documents; None for Python's own documentation.
    """
    options = arguments(description, words)
    with report_errors(), open_pipeline(make, options, description, load) as (service, pipeline):
        for question in questions(options):
            try:
                print_answer(pipeline, question, options)
            except (NanoGPTError, OpenAIError) as error:
                if not options.interactive:
                    raise
                print(f"error: {error}")  # such as a question that is too long; the next one may be answered
        print(f"Talked to {service.name}.")


@contextlib.contextmanager
def open_pipeline(
    make: Callable[[Service, Settings], Pipeline],
    options: argparse.Namespace,
    description: str,
    load: Callable[[], list[Passage]] | None = None,
) -> Iterator[tuple[Service, Pipeline]]:
    """Yield the service and a pipeline whose index is up to date; print each step before it begins."""
    find_vocabulary()
    settings = Settings(**{field.name: getattr(options, field.name) for field in fields(Settings)})
    with connect() as service, contextlib.ExitStack() as open_now:
        print(f"{description}\nTalking to {service.name}.\n", flush=True)
        print("Reading the documents ...", flush=True)
        with report_index_damage(settings.data):
            documents = load() if load else load_documents(settings.data)
            print(f"Embedding those of {len(documents):,} documents that are not in the index yet ...", flush=True)
            pipeline = open_now.enter_context(contextlib.closing(make(service, settings)))
            done = pipeline.ingest(documents)
        sys.stderr.flush()  # the progress bar
        removed = "" if done.removed is None else f"{done.removed:,} removed, "
        print(f"Index: {done.added:,} {done.unit} embedded, {removed}{done.unchanged:,} unchanged.", flush=True)
        yield service, pipeline


def find_vocabulary() -> None:
    """Point tiktoken to the vocabulary in LlamaIndex's package, which saves a download."""
    package = importlib.util.find_spec("llama_index.core") if importlib.util.find_spec("llama_index") else None
    if package and package.origin:
        folder = Path(package.origin).parent / "_static" / "tiktoken_cache"
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(folder))
