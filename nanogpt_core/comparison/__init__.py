"""Comparison of embedding models on a user's own questions: retrieval quality, price, dimensions and time.

``nanogpt compare`` is its command. In Python::

    from nanogpt_core.comparison import compare_models, load_passages, load_questions

    comparison = compare_models(
        ["text-embedding-3-small", "BAAI/bge-m3"], load_questions("questions.jsonl"), load_passages("corpus.jsonl")
    )
    print(comparison.advice.summary)
"""

from __future__ import annotations

from nanogpt_core.comparison.advice import Advice, give_advice
from nanogpt_core.comparison.candidates import Candidate, Variant, make_variants
from nanogpt_core.comparison.measure import Comparison, Expense, Result, compare_models, estimate_expense
from nanogpt_core.comparison.passages import Passage, load_passages
from nanogpt_core.comparison.questions import Question, load_questions, write_questions

__all__ = [
    "Advice",
    "Candidate",
    "Comparison",
    "Expense",
    "Passage",
    "Question",
    "Result",
    "Variant",
    "compare_models",
    "estimate_expense",
    "give_advice",
    "load_passages",
    "load_questions",
    "make_variants",
    "write_questions",
]
