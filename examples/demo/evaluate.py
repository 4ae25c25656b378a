"""Retrieval quality of embedding models: nDCG@10, recall@5 and MRR over questions with known answers.

``python examples/demo/evaluate.py [MODEL ...]`` embeds Python's own documentation (corpus.py) and the hand-written
questions of questions.jsonl with each model, with and without the query instruction that its card recommends, at full
and at reduced dimensions. It prints a table, and plots quality against price and against dimensions. With a key it
first prints the expected cost, and asks for consent above ``--max-usd``.

A question names its right sources. The best passage of any of them counts as found; further passages of a source that
is already in the ranking are ignored.

Without a key the vectors come from the sandbox. They are made from words, not by a model, and the figures say nothing
about the models: they only show that the evaluation works.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import _startup  # noqa: F401  first: it handles Ctrl-C and missing packages during the imports
import ir_measures
import numpy as np
from cli_errors import report_errors
from command_line import positive, usd
from corpus import Passage, load_passages
from ir_measures import RR, Qrel, R, ScoredDoc, nDCG
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from questions import Question, load_questions
from settings import DATA, Service, connect

from nanogpt_core import MODELS as CATALOGUE
from nanogpt_core import Embedder, NanoGPTError, Usage, get_model, list_models
from nanogpt_core.errors import AuthenticationError, ConnectionFailedError, InsufficientBalanceError
from nanogpt_core.models.catalog import near_names

MODELS = ("text-embedding-3-small", "text-embedding-3-large", "BAAI/bge-m3", "Qwen/Qwen3-Embedding-0.6B")
MEASURES = (nDCG @ 10, R @ 5, RR)
NAMES = ("nDCG@10", "recall@5", "MRR")
WIDTHS = (64, 256, 768)
DEPTH = 200  # passages per ranking
MAX_USD = 0.5  # US dollars that are spent without asking
WARNING = "SANDBOX: vectors made from words, without a model. These figures say nothing about the models."


@dataclass(frozen=True)
class Variant:
    """Options with which a model is evaluated."""

    model: str
    dimensions: int | None = None
    instruction: bool = False


@dataclass(frozen=True)
class Result:
    """Quality of one variant.

    Attributes:
        variant: The variant.
        width: Dimensions of its vectors.
        usd_per_million_tokens: The price, or None if unknown.
        quality: nDCG@10, recall@5 and MRR, over all questions.
        by_language: nDCG@10 by the language of the question.
        spent: Usage of embedding.
    """

    variant: Variant
    width: int
    usd_per_million_tokens: float | None
    quality: tuple[float, ...]
    by_language: dict[str, float]
    spent: Usage


def variants(models: Sequence[str], dimensions: Sequence[int]) -> Iterator[Variant]:
    """Yield the variants of each model: full and, if possible, reduced dimensions; with and without its instruction."""
    for name in models:
        model = get_model(name)
        lowest, full = model.min_dimensions, model.max_dimensions
        widths = [width for width in dimensions if lowest and full and lowest <= width < full]
        for width in (*sorted(widths), None):
            yield Variant(name, width)
            if model.query_instruction:
                yield Variant(name, width, instruction=True)


def measure(variant: Variant, service: Service, passages: Sequence[Passage], questions: Sequence[Question]) -> Result:
    """Embed passages and questions, rank the passages, and compute the measures."""
    embedder = _embedder(variant, service)
    matrix = _unit(embedder.embed([passage.text for passage in passages]))
    queries = _unit(np.stack([embedder.embed_query(question.text) for question in questions]))
    run = [
        ScoredDoc(str(number), name, score)
        for number, (question, scores) in enumerate(zip(questions, queries @ matrix.T, strict=True))
        for name, score in ranked(question, passages, scores)
    ]
    qrels = [Qrel(str(number), "answer", 1) for number in range(len(questions))]
    quality = ir_measures.calc_aggregate(MEASURES, qrels, run)
    each = {row.query_id: row.value for row in ir_measures.iter_calc([MEASURES[0]], qrels, run)}
    languages = {language: [] for language in sorted({question.language for question in questions})}
    for number, question in enumerate(questions):
        languages[question.language].append(each[str(number)])
    return Result(
        variant,
        matrix.shape[1],
        embedder.model_info.usd_per_million_tokens,
        tuple(quality[measure] for measure in MEASURES),
        {language: float(np.mean(values)) for language, values in languages.items()},
        embedder.usage,
    )


def _embedder(variant: Variant, service: Service) -> Embedder:
    return Embedder(
        variant.model,
        api_key=service.api_key,
        base_url=service.base_url,
        dimensions=variant.dimensions,
        query_instruction="recommended" if variant.instruction else None,
        on_overflow="truncate",
        # Vectors that are paid for are kept. The sandbox is free, and its address changes.
        cache=None if service.is_sandbox else DATA / "evaluate.sqlite",
        progress=sys.stderr.isatty(),
    )


def confirm_cost(
    ways: Sequence[Variant],
    service: Service,
    passages: Sequence[Passage],
    questions: Sequence[Question],
    max_usd: float,
) -> None:
    """Print the expected cost before anything is sent; end the program unless it is small or the user agrees.

    Args:
        ways: The variants to evaluate.
        service: The service; the sandbox is free, and nothing is printed.
        passages: The passages to embed with each variant.
        questions: The questions to embed with each variant.
        max_usd: US dollars that may be spent without asking.
    """
    if service.is_sandbox:
        return
    texts = [*(passage.text for passage in passages), *(question.text for question in questions)]
    expected = [_embedder(way, service).estimate(texts) for way in ways]
    known = sum(estimate.cost_usd or 0 for estimate in expected)
    unknown = sorted({way.model for way, estimate in zip(ways, expected, strict=True) if estimate.cost_usd is None})
    without = f", and {', '.join(unknown)}, whose price is unknown" if unknown else ""
    tokens = sum(estimate.tokens for estimate in expected)
    print(
        f"Expected cost of {len(ways)} variants: {tokens:,} tokens, {usd(known)} at list price{without}.\n", flush=True
    )
    if known <= max_usd and not unknown:
        return
    question = f"That is more than --max-usd {max_usd:g}. " if known > max_usd else ""
    if not sys.stdin.isatty():
        sys.exit(f"error: {question}Nothing was embedded. Allow it with --max-usd, and unknown prices with --yes.")
    if input(f"{question}Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        sys.exit("Nothing was embedded.")


def _unit(matrix: np.ndarray) -> np.ndarray:
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def ranked(question: Question, passages: Sequence[Passage], scores: np.ndarray) -> list[tuple[str, float]]:
    """Return the sources in the order of their best passages; each right source is called ``answer``."""
    best: dict[str, float] = {}
    for row in np.argsort(-scores, kind="stable")[:DEPTH]:
        source = passages[row].source.split(" (part ")[0]
        best.setdefault("answer" if source in question.sources else source, float(scores[row]))
    return list(best.items())


def table(results: Sequence[Result]) -> str:
    """Return the results as a table in Markdown."""
    languages = sorted({language for result in results for language in result.by_language})
    head = ["model", "width", "instruction", "$ / 1M tokens", *NAMES, *(f"nDCG@10 {name}" for name in languages)]
    rows = [
        [
            result.variant.model,
            str(result.width),
            "yes" if result.variant.instruction else "",
            "?" if result.usd_per_million_tokens is None else f"{result.usd_per_million_tokens:g}",
            *(f"{value:.3f}" for value in result.quality),
            *(f"{result.by_language[name]:.3f}" for name in languages),
        ]
        for result in results
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in lines)


def plot(results: Sequence[Result], file: Path, title: str) -> None:
    """Plot nDCG@10 against price and against dimensions; a line joins the dimensions of a model."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    by_price, by_width = figure.subplots(1, 2, sharey=True)
    figure.suptitle(title)
    for name in dict.fromkeys(result.variant.model for result in results):
        for instruction in (False, True):
            own = [r for r in results if r.variant.model == name and r.variant.instruction is instruction]
            if not own:
                continue
            own.sort(key=lambda result: result.width)
            quality = [result.quality[0] for result in own]
            # A larger, empty mark, because both may lie in one place.
            style = {"ls": "--", "marker": "s", "ms": 11, "mfc": "none"} if instruction else {"marker": "o"}
            label = f"{name} + instruction" if instruction else name
            (line,) = by_width.plot([result.width for result in own], quality, label=label, **style)
            price = own[-1].usd_per_million_tokens
            if price is not None:
                by_price.plot(price, quality[-1], color=line.get_color(), **style)
    prices = {r.usd_per_million_tokens for r in results if r.usd_per_million_tokens is not None}
    _scale(by_price, prices, "US dollars per million tokens, at full dimensions")
    _scale(by_width, {result.width for result in results}, "dimensions")
    by_price.set_ylabel(NAMES[0])
    figure.legend(*by_width.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(file, dpi=130)


def spent(results: Sequence[Result]) -> str:
    """Describe the usage of all variants."""
    costs, tokens = [result.spent.cost_usd for result in results], [result.spent.prompt_tokens for result in results]
    cost = "price unknown" if None in costs else f"${sum(filter(None, costs)):.4f} at list price"
    return f"Embedding: {'unknown' if None in tokens else f'{sum(filter(None, tokens)):,}'} tokens, {cost}."


def _scale(axes: Axes, values: Collection[float], label: str) -> None:
    axes.set(xscale="log", xlabel=label)
    axes.set_xticks(sorted(values), [f"{value:g}" for value in sorted(values)], rotation=45)
    axes.set_xticks([], minor=True)
    axes.grid(alpha=0.3)


def check_models(names: Sequence[str], service: Service) -> None:
    """End the program, before anything is paid for, if a model is neither in the catalog nor in the live list."""
    unknown = [name for name in names if name not in CATALOGUE]
    offered = list_models(service.api_key, service.base_url) if unknown else {}
    for name in unknown:
        if name not in offered:
            near = " or ".join(near_names(name)) or ", ".join(sorted(offered))
            sys.exit(f"error: {service.name} offers no embedding model {name!r}. Nothing was embedded. Try {near}.")


def measure_all(
    ways: Sequence[Variant], service: Service, passages: Sequence[Passage], questions: Sequence[Question]
) -> tuple[list[Result], list[str]]:
    """Measure each variant; return the results and the errors. An error skips the other variants of its model."""
    results: list[Result] = []
    failed: dict[str, str] = {}
    for way in ways:
        if way.model in failed:
            continue
        try:
            results.append(measure(way, service, passages, questions))
        except NanoGPTError as error:
            failed[way.model] = f"error: {way.model}: {error}"
            if isinstance(error, AuthenticationError | InsufficientBalanceError | ConnectionFailedError):
                break  # the next would fail too
    return results, list(failed.values())


def main(words: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print the table, and save the plot."""
    options = arguments(words)
    models, dimensions = options.models or MODELS, options.dimensions
    with report_errors(), connect() as service:
        check_models(models, service)
        questions, passages = load_questions(options.questions, options.limit), load_passages()
        notice = WARNING if service.is_sandbox else f"Vectors of {service.name}."
        print(f"{len(questions)} questions, {len(passages):,} passages.\n{notice}\n", flush=True)
        ways = list(variants(models, WIDTHS if dimensions is None else dimensions))
        taken = {width for way in ways for width in (way.dimensions, get_model(way.model).dimensions)}
        for width in sorted(set(dimensions or ()) - taken):
            print(f"Not tried: {width} dimensions; none of these models takes them.\n", flush=True)
        if not options.yes:
            confirm_cost(ways, service, passages, questions, options.max_usd)
        results, failed = measure_all(ways, service, passages, questions)
    if results:
        print(f"{table(results)}\n\n{notice}\n{spent(results)}")
        try:
            plot(results, options.plot, notice)
            print(f"Drawn: {options.plot}")
        except OSError as error:
            failed.append(f"error: {options.plot} could not be written: {error}")
    if failed:
        sys.exit("\n".join(failed))


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, and check the files that it names before any work is done."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"default: {' '.join(MODELS)}")
    widths = " ".join(map(str, WIDTHS))
    parser.add_argument("--dimensions", type=positive, nargs="*", help=f"reduced dimensions to try (default: {widths})")
    parser.add_argument("--questions", type=Path, default=here / "questions.jsonl", help="file of questions")
    parser.add_argument("--limit", type=positive, help="use only this number of questions")
    parser.add_argument("--plot", type=Path, default=Path("evaluation.png"), help="file of the plot")
    parser.add_argument("--max-usd", type=float, default=MAX_USD, help="ask above this cost (default: %(default)s)")
    parser.add_argument("--yes", action="store_true", help="do not ask about the cost")
    options = parser.parse_args(words)
    if not options.plot.parent.is_dir() or options.plot.is_dir():
        parser.error(f"--plot must name a file in a folder that is there, not {options.plot}")
    kinds = Figure().canvas.get_supported_filetypes()
    if options.plot.suffix.lstrip(".") not in kinds:
        parser.error(f"--plot must end in one of .{', .'.join(sorted(kinds))}, unlike {options.plot}")
    try:
        load_questions(options.questions)
    except ValueError as error:
        parser.error(f"--questions: {error}")
    return options


if __name__ == "__main__":
    main()
