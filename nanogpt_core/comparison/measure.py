"""The measurement: embeds passages and questions with each model, ranks, and computes quality, time and cost."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from nanogpt_core._runtime.validation import (
    check_bool,
    check_list,
    check_number,
    check_plain_function,
    check_positive,
    number_type_error,
)
from nanogpt_core.cache.base import EmbeddingCache
from nanogpt_core.comparison.advice import Advice, Assessment, assess, give_advice
from nanogpt_core.comparison.candidates import DEFAULT_DIMENSIONS, Candidate, Variant, find_candidates, make_variants
from nanogpt_core.comparison.passages import Passage
from nanogpt_core.comparison.questions import Question, check_sources
from nanogpt_core.comparison.ranking import first_ranks, measure_quality, rank_sources, unit_rows
from nanogpt_core.embeddings.embedder import Embedder
from nanogpt_core.errors import (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    ConnectionFailedError,
    InsufficientBalanceError,
    InvalidInputError,
    InvalidTypeError,
    ModelNotFoundError,
    NanoGPTError,
    PermissionDeniedError,
)
from nanogpt_core.http.secrets import ApiKey, hide_key
from nanogpt_core.observability.usage import Usage

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TIMED_QUERIES = 10  # sent one by one; the rest go out together
_QUERY_THREADS = 16
_FATAL = (AuthenticationError, InsufficientBalanceError, ConnectionFailedError, BudgetExceededError)
"""Errors after which the next model of the same service would fail too."""

_NO_KEY_REMEDY = "No key is sent to a server of MODEL@URL: start it without one."
_REMEDIES_ELSEWHERE: dict[type[NanoGPTError], str] = {
    AuthenticationError: _NO_KEY_REMEDY,
    PermissionDeniedError: _NO_KEY_REMEDY,
    ModelNotFoundError: "Check both parts of MODEL@URL, and that the server has the model.",
    ConnectionFailedError: "Check the address in MODEL@URL, and that the server runs.",
}
"""Remedies for errors of servers other than NanoGPT's."""

Progress = Callable[[str, int, int], None]
"""A function of the candidate's name, the texts done and the texts in total."""


@dataclass(frozen=True)
class Result:
    """One variant, measured.

    Attributes:
        variant: The variant.
        dimensions: Dimensions of its vectors.
        scores: Each measure for each question, by the measure's name: ``(q,)`` from 0 to 1.
        ranks: The place of each question's first right source, counted from 1; None beyond the first 100.
        passages_per_second: Rate of embedding the corpus; None if vectors came from the cache.
        query_seconds: Median time of embedding one question; None if the vectors came from the cache.
    """

    variant: Variant
    dimensions: int
    scores: dict[str, NDArray[np.float64]] = field(repr=False)
    ranks: Sequence[int | None] = field(repr=False)
    passages_per_second: float | None
    query_seconds: float | None

    @property
    def usd_per_million_tokens(self) -> float | None:
        """The price; None if unknown."""
        return self.variant.candidate.info.usd_per_million_tokens


@dataclass(frozen=True)
class Expense:
    """Expected expense of one candidate.

    Attributes:
        candidate: The model.
        tokens: Tokens to send; texts in the cache are not sent.
        cost_usd: US dollars; None if the price is unknown.
        requests: Requests to send, one for each question among them.
    """

    candidate: Candidate
    tokens: int
    cost_usd: float | None
    requests: int


@dataclass(frozen=True)
class Comparison:
    """The outcome of a comparison.

    Attributes:
        questions: The questions.
        passages: Number of passages.
        sources: Number of sources.
        results: The measured variants, those of a candidate together.
        failures: Errors of candidates that could not be measured, by their names; None for one that was not tried
            after the error of another one on the same server.
        usage: The usage of each candidate, by its name.
        tolerance: Loss of nDCG@10 to accept for a lower price or smaller vectors.
    """

    questions: Sequence[Question] = field(repr=False)
    passages: int
    sources: int
    results: Sequence[Result]
    failures: dict[str, NanoGPTError | None]
    usage: dict[str, Usage]
    tolerance: float = 0.02

    @cached_property
    def assessments(self) -> list[Assessment]:
        """The variants beside the best one, in the order of ``results``."""
        return assess(self.results)

    @cached_property
    def advice(self) -> Advice:
        """The variant to take."""
        synthetic = any(question.synthetic for question in self.questions)
        return give_advice(self.assessments, sources=self.sources, tolerance=self.tolerance, synthetic=synthetic)

    @property
    def failure_notes(self) -> list[str]:
        """A sentence about each candidate that was not measured."""
        after = "another model of the same server failed before."
        return [f"{name} was not measured: {error or after}" for name, error in self.failures.items()]

    @property
    def spent(self) -> Usage:
        """The usage of all candidates together."""
        return sum(self.usage.values(), Usage())


def estimate_expense(
    candidates: Sequence[Candidate],
    questions: Sequence[Question],
    passages: Sequence[Passage],
    *,
    api_key: ApiKey = None,
    base_url: str | None = None,
    instructions: bool = True,
    cache: EmbeddingCache | str | os.PathLike[str] | None = None,
) -> list[Expense]:
    """Return the expected expense of each candidate; sends nothing. Reduced dimensions cost nothing more.

    Args:
        candidates: The models.
        questions: The questions.
        passages: The passages.
        api_key: The key for NanoGPT. Default: the environment's.
        base_url: Base URL of NanoGPT. Default: the environment's.
        instructions: False if query instructions are left out.
        cache: The cache that the comparison will use.

    Raises:
        InvalidInputError: A text cannot be embedded.
        ConfigurationError: An invalid argument.
    """
    api_key = hide_key(api_key)
    candidates = check_list("candidates", candidates, Candidate)
    questions = check_list("questions", questions, Question)
    passages = check_list("passages", passages, Passage)
    check_bool("instructions", instructions)
    found = []
    for candidate in candidates:
        texts = [passage.text for passage in passages]
        for instruction in _instructions(candidate, instructions):
            texts += [(instruction or "{query}").replace("{query}", question.text) for question in questions]
        kept = None if candidate.is_own else cache
        embedder = Embedder(**candidate.options(api_key, base_url), on_overflow="truncate", cache=kept)
        estimate = embedder.estimate(texts)
        found.append(Expense(candidate, estimate.tokens, estimate.cost_usd, estimate.requests))
    return found


def compare_models(
    models: Sequence[str] | Sequence[Candidate],
    questions: Sequence[Question],
    passages: Sequence[Passage],
    *,
    api_key: ApiKey = None,
    base_url: str | None = None,
    dimensions: Sequence[int] = DEFAULT_DIMENSIONS,
    instructions: bool = True,
    cache: EmbeddingCache | str | os.PathLike[str] | None = None,
    budget_usd: float | None = None,
    tolerance: float = 0.02,
    progress: Progress | None = None,
) -> Comparison:
    """Measure the retrieval quality of each model on the same questions.

    A text over a model's token limit is truncated. Vectors of reduced dimensions are the beginnings of the full ones,
    scaled to length 1, as the models that reduce are trained for; the corpus is embedded once for each model.

    Args:
        models: Names, ``MODEL`` or ``MODEL@URL`` for another OpenAI-compatible server; or candidates.
        questions: The questions, at least one.
        passages: The passages, at least one.
        api_key: The key for NanoGPT. Default: the environment's. It is sent to no other server.
        base_url: Base URL of NanoGPT. Default: the environment's.
        dimensions: Reduced dimensions to measure, for models that take them.
        instructions: False to leave out the query instructions of model cards.
        cache: A cache for the vectors: a second comparison pays for no text again. Vectors of ``MODEL@URL`` on this
            machine are not cached. Default: none.
        budget_usd: US dollars that the comparison may spend. Default: no limit.
        tolerance: Loss of nDCG@10 to accept for a lower price or smaller vectors.
        progress: A function of (candidate's name, texts done, texts in total). Default: none.

    Raises:
        InvalidInputError: No questions, no passages, or a question's source is not in the corpus. Nothing was sent.
        InvalidTypeError: An argument is of the wrong type. Nothing was sent.
        ConfigurationError: An invalid argument. Nothing was sent.
        NanoGPTError: No model could be measured; the error of the first.
    """
    api_key = hide_key(api_key)
    models = check_list("models", models, str, Candidate)
    questions = check_list("questions", questions, Question)
    passages = check_list("passages", passages, Passage)
    if not questions or not passages:
        raise InvalidInputError(f"There are no {'passages' if questions else 'questions'}.")
    dimensions = check_list("dimensions", dimensions, int)
    for each in dimensions:
        check_number("dimensions", each, 1)
    check_bool("instructions", instructions)
    check_positive("budget_usd", budget_usd)
    if progress is not None and not callable(progress):
        raise InvalidTypeError(f"progress must be a function, not {type(progress).__name__}.")
    check_plain_function("progress", progress, "model", "done", "total")
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)):
        raise number_type_error("tolerance", tolerance)
    if not tolerance >= 0:  # nan too
        raise ConfigurationError(f"tolerance must be at least 0, not {tolerance}.")
    check_sources(questions, {passage.source for passage in passages})
    named = [model for model in models if isinstance(model, str)]
    given = [model for model in models if isinstance(model, Candidate)]
    candidates = given + (find_candidates(named, api_key, base_url) if named or not given else [])
    task = _Task(
        questions=questions,
        passages=passages,
        api_key=api_key,
        base_url=base_url,
        dimensions=dimensions,
        instructions=instructions,
        cache=cache,
        budget_usd=budget_usd,
        progress=progress,
    )
    for candidate in candidates:
        task.make_embedder(candidate)  # an invalid option is named before anything is sent
    results: list[Result] = []
    failures: dict[str, NanoGPTError | None] = {}
    down: set[str | None] = set()
    for candidate in candidates:
        if candidate.base_url in down:
            failures[candidate.name] = None
            continue
        try:
            results += task.measure(candidate)
        except NanoGPTError as error:
            if candidate.base_url is not None:
                error.remedy = _REMEDIES_ELSEWHERE.get(type(error), error.remedy)
            failures[candidate.name] = error
            if isinstance(error, _FATAL):
                down.add(candidate.base_url)
    if not results:
        raise next(error for error in failures.values() if error is not None)
    return Comparison(list(questions), len(passages), len(task.starts), results, failures, task.usage, tolerance)


def _instructions(candidate: Candidate, wanted: bool) -> list[str | None]:
    instruction = candidate.info.query_instruction if wanted else None
    return [None, instruction] if instruction else [None]


@dataclass(repr=False)  # the corpus is long, and the key may be in it
class _Task:
    """The texts of a comparison, and the options of every measurement: arguments of :func:`compare_models`."""

    questions: Sequence[Question]
    passages: Sequence[Passage]
    api_key: ApiKey
    base_url: str | None
    dimensions: Sequence[int]
    instructions: bool
    cache: EmbeddingCache | str | os.PathLike[str] | None
    budget_usd: float | None
    progress: Progress | None

    def __post_init__(self) -> None:
        # Passages of a source stand together: its best one is then a maximum over a range of columns.
        counts = Counter(passage.source for passage in self.passages)
        numbers = {name: number for number, name in enumerate(counts)}
        self.starts = np.cumsum([0, *counts.values()])[:-1]
        self._texts = [passage.text for passage in sorted(self.passages, key=lambda one: numbers[one.source])]
        self._right = [[numbers[name] for name in question.sources] for question in self.questions]
        self._embedders: dict[str, list[Embedder]] = {}

    @property
    def usage(self) -> dict[str, Usage]:
        """The usage of each candidate that was measured, by its name."""
        return {name: sum((each.usage for each in some), Usage()) for name, some in self._embedders.items()}

    def make_embedder(self, candidate: Candidate, query_instruction: str | None = None) -> Embedder:
        """Return an embedder with the part of the budget that is left."""
        options: dict[str, Any] = {**candidate.options(self.api_key, self.base_url), "on_overflow": "truncate"}
        if self.budget_usd is not None:
            left = self.budget_usd - sum(each.cost_usd or 0.0 for each in self.usage.values())
            options["budget_usd"] = max(left, 1e-12)  # 0 is no valid budget
        cache, report = None if candidate.is_own else self.cache, self.progress
        progress = (lambda done, total: report(candidate.name, done, total)) if report else None
        return Embedder(**options, cache=cache, query_instruction=query_instruction, progress=progress)

    def measure(self, candidate: Candidate) -> list[Result]:
        """Measure every variant of a candidate."""
        embedders = self._embedders.setdefault(candidate.name, [])  # two candidates may have one name
        queries = {}
        # Questions first: the first request opens a connection, and would slow down the passages.
        for instruction in reversed(_instructions(candidate, self.instructions)):
            embedders.append(self.make_embedder(candidate, instruction))
            queries[bool(instruction)] = self._embed_questions(embedders[-1])
        plain = embedders[-1]  # without an instruction
        cached = plain.usage.texts_cached
        began = time.perf_counter()
        full = plain.embed(self._texts)
        seconds = time.perf_counter() - began
        rate = None if plain.usage.texts_cached > cached else len(self._texts) / max(seconds, 1e-9)
        return list(self._results(candidate, full, queries, rate))

    def _embed_questions(self, embedder: Embedder) -> tuple[NDArray[np.float32], float | None]:
        before, times, vectors = embedder.usage.texts_cached, [], []
        texts = [question.text for question in self.questions]
        for text in texts[:_TIMED_QUERIES]:
            began = time.perf_counter()
            vectors.append(embedder.embed_query(text))
            times.append(time.perf_counter() - began)
        with ThreadPoolExecutor(_QUERY_THREADS) as threads:
            vectors += threads.map(embedder.embed_query, texts[_TIMED_QUERIES:])
        cached = embedder.usage.texts_cached > before
        return np.stack(vectors), None if cached else median(times)

    def _results(
        self,
        candidate: Candidate,
        full: NDArray[np.float32],
        queries: dict[bool, tuple[NDArray[np.float32], float | None]],
        rate: float | None,
    ) -> Iterator[Result]:
        variants = make_variants([candidate], self.dimensions, instructions=self.instructions)
        for dimensions, group in itertools.groupby(variants, key=lambda variant: variant.dimensions):
            passages = unit_rows(full, dimensions)
            for variant in group:
                vectors, seconds = queries[variant.instruction]
                ranked = rank_sources(unit_rows(vectors, dimensions), passages, self.starts)
                yield Result(
                    variant,
                    passages.shape[1],
                    measure_quality(ranked, self._right),
                    first_ranks(ranked, self._right),
                    rate,
                    seconds,
                )
