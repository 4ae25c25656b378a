"""Comparisons over HTTP: quality, variants, costs, other servers and failures."""

import asyncio
import math

import numpy as np
import pytest

from nanogpt_core import Embedder, MemoryCache
from nanogpt_core.comparison import Question, compare_models, estimate_expense, make_variants
from nanogpt_core.comparison.candidates import find_candidates
from nanogpt_core.comparison.ranking import unit_rows
from nanogpt_core.errors import (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    InvalidInputError,
    InvalidTypeError,
)
from nanogpt_core.sandbox import Fault

QWEN = "Qwen/Qwen3-Embedding-0.6B"


def inputs(sandbox):
    return [text for request in sandbox.requests for text in request.inputs]


def test_quality_follows_from_the_ranks(passages, options):
    asked = [
        Question("What do bees make?", ("bees",)),
        Question("Was machen bees, honey?", ("wasps",)),  # bees come first
        Question("Who sleeps?", ("cats",)),
    ]
    found = compare_models(["text-embedding-3-small"], asked, passages, dimensions=(), **options)
    (each,) = found.assessments
    second = 1 / math.log2(3)
    assert each.means == pytest.approx({"nDCG@10": (2 + second) / 3, "recall@5": 1.0, "MRR": 2.5 / 3})
    assert each.result.ranks == [1, 2, 1]
    assert (found.passages, found.sources) == (4, 4)
    assert each.result.passages_per_second > 0
    assert each.result.query_seconds > 0


def test_variants_are_those_that_the_model_supports(options):
    models = ["BAAI/bge-m3", "text-embedding-3-small", QWEN, "BAAI/bge-large-en-v1.5"]
    variants = make_variants(find_candidates(models, **options), [4096, 16, 256, 1536])
    assert [variant.label for variant in variants] == [
        "BAAI/bge-m3",
        "text-embedding-3-small",
        "text-embedding-3-small at 256",
        "text-embedding-3-small at 16",
        QWEN,
        f"{QWEN} + instruction",
        f"{QWEN} at 256",
        f"{QWEN} at 256 + instruction",
        "BAAI/bge-large-en-v1.5",
        "BAAI/bge-large-en-v1.5 + instruction",
    ]
    plain = make_variants(find_candidates([QWEN], **options), (), instructions=False)
    assert [variant.label for variant in plain] == [QWEN]


def test_corpus_is_embedded_once_for_all_variants_and_reduced_vectors_equal_the_services(
    sandbox, passages, questions, options
):
    found = compare_models([QWEN], questions, passages, dimensions=[64, 256], **options)
    assert [result.dimensions for result in found.results] == [1024, 1024, 256, 256, 64, 64]
    sent = inputs(sandbox)
    assert all(sent.count(passage.text) == 1 for passage in passages)
    assert sum(text.startswith("Instruct: ") for text in sent) == len(questions)
    assert not any("dimensions" in request.body for request in sandbox.requests)
    texts = [passage.text for passage in passages]
    reduced = unit_rows(Embedder(QWEN, **options).embed(texts), 64)
    assert np.allclose(reduced, Embedder(QWEN, dimensions=64, **options).embed(texts), atol=1e-6)


def test_passages_of_a_source_in_any_order_are_one_source(passages, questions, options):
    from nanogpt_core.comparison import Passage

    more = [Passage("Nothing to see.", "bees"), *passages, Passage("Bees sleep in winter.", "bees")]
    found = compare_models(["BAAI/bge-m3"], questions, more, **options)
    assert (found.passages, found.sources) == (6, 4)
    assert found.results[0].ranks == [1, 1, 1, 1]


def test_expense_is_that_of_the_comparison_without_cached_texts(sandbox, passages, questions, options):
    cache = MemoryCache()
    candidates = find_candidates([QWEN, "BAAI/bge-m3"], **options)
    before = estimate_expense(candidates, questions, passages, cache=cache, **options)
    assert sandbox.requests == []
    assert [each.candidate.info.id for each in before] == [QWEN, "BAAI/bge-m3"]
    assert before[0].tokens > before[1].tokens > 0  # the instruction's tokens
    assert before[1].cost_usd == pytest.approx(before[1].tokens * 0.01 / 1e6)
    found = compare_models(candidates, questions, passages, **options)
    assert found.usage[QWEN].texts_sent == len(passages) + 2 * len(questions)
    assert found.spent.cost_usd == pytest.approx(sum(each.cost_usd for each in found.usage.values()))


def test_cached_vectors_are_used_again_and_give_no_times(tmp_path, passages, questions, options):
    cache = tmp_path / "vectors.sqlite"
    first = compare_models(["BAAI/bge-m3"], questions, passages, cache=cache, **options)
    again = compare_models(["BAAI/bge-m3"], questions, passages, cache=cache, **options)
    assert (first.spent.texts_sent, again.spent.texts_sent) == (8, 0)
    assert again.spent.cost_usd == 0
    assert (again.results[0].passages_per_second, again.results[0].query_seconds) == (None, None)
    assert (again.results[0].scores["MRR"] == first.results[0].scores["MRR"]).all()


def test_model_on_another_server_does_not_get_the_key(passages, questions, options):
    from nanogpt_core import Sandbox

    with Sandbox(api_key="no-key") as other:
        name = f"BAAI/bge-large-en-v1.5@{other.base_url}"
        cache = MemoryCache()
        for _ in range(2):
            found = compare_models(["BAAI/bge-m3", name], questions, passages, cache=cache, **options)
        assert found.usage["BAAI/bge-m3"].texts_sent == 0
        assert found.usage[name].texts_cached == 0  # they cost nothing, and their times are measured in each run
        assert {request.headers["authorization"] for request in other.requests} == {"Bearer no-key"}
        assert other.requests
    labels = [result.variant.label for result in found.results]
    assert labels[1] == f"BAAI/bge-large-en-v1.5@{other.base_url.split('/')[2]}"
    assert found.results[1].usd_per_million_tokens == 0
    assert found.failures == {}
    assert found.usage[name].cost_usd == 0


@pytest.mark.parametrize(
    ("key", "port", "problem", "remedy"),
    [
        ("sk-nano-mine", None, "401", "No key is sent to a server of MODEL@URL: start it without one."),
        ("no-key", None, "404", "Check both parts of MODEL@URL, and that the server has the model."),
        ("no-key", 9, "No answer", "Check the address in MODEL@URL, and that the server runs."),
    ],
)
def test_failure_of_another_server_is_no_reason_to_check_key_and_address_of_nanogpt(
    passages, questions, options, key, port, problem, remedy
):
    from nanogpt_core import Sandbox
    from nanogpt_core.testing import fake_clock

    with Sandbox(api_key=key) as other, fake_clock():
        name = f"x@http://127.0.0.1:{port}/v1" if port else f"x@{other.base_url}"
        found = compare_models(["BAAI/bge-m3", name], questions, passages, **options)
    assert problem in found.failures[name].message
    assert found.failures[name].remedy == remedy


def test_unknown_model_is_refused_before_anything_is_embedded(sandbox, passages, questions, options):
    with pytest.raises(ConfigurationError, match=r"offers no embedding model 'baai/bge-m33'\. Try BAAI/bge-m3"):
        compare_models(["BAAI/bge-m3", "baai/bge-m33"], questions, passages, **options)
    assert inputs(sandbox) == []
    assert compare_models(["sandbox-embedding-new"], questions, passages, **options).results[0].dimensions == 1024


@pytest.mark.parametrize(
    ("models", "message"),
    [([], "No model to compare"), (["@http://localhost"], "names no model"), (["a@x"], "a@x: base_url")],
)
def test_impossible_names_are_refused(passages, questions, options, models, message):
    with pytest.raises(ConfigurationError, match=message):
        compare_models(models, questions, passages, **options)


@pytest.mark.parametrize("wrong", [{"dimensions": [0]}, {"tolerance": -1.0}, {"tolerance": float("nan")}])
def test_impossible_numbers_are_refused(sandbox, passages, questions, options, wrong):
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        compare_models(["BAAI/bge-m3"], questions, passages, **wrong, **options)
    assert sandbox.requests == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"models": QWEN},
        {"models": [5]},
        {"questions": ["What do bees make?"]},
        {"passages": {"bees": "Bees make honey."}},
        {"dimensions": 256},
        {"dimensions": ["256"]},
        {"instructions": "no"},
        {"budget_usd": "1"},
        {"tolerance": "0.02"},
        {"progress": True},
        {"progress": asyncio.sleep},
    ],
    ids=lambda value: f"{value!s:.23}",
)
def test_argument_of_a_wrong_type_is_refused_before_anything_is_sent(sandbox, passages, questions, options, wrong):
    arguments = {"models": [QWEN], "questions": questions, "passages": passages, **wrong}
    with pytest.raises(InvalidTypeError, match=rf"^{next(iter(wrong))} must be (a|True or False)\b"):
        compare_models(**arguments, **options)
    assert not sandbox.requests


def test_questions_and_passages_may_be_iterators(passages, questions, options):
    found = compare_models(iter([QWEN]), iter(questions), iter(passages), dimensions=(), **options)
    assert (len(found.questions), found.passages) == (len(questions), len(passages))


def test_comparison_without_texts_or_with_unknown_sources_is_refused(sandbox, passages, questions, options):
    for asked, corpus in (([], passages), (questions, []), ([Question("?", ("dogs",))], passages)):
        with pytest.raises(InvalidInputError):
            compare_models(["BAAI/bge-m3"], asked, corpus, **options)
    assert sandbox.requests == []


def test_failure_of_one_model_leaves_the_others(fresh_sandbox, passages, questions):
    options = {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url}
    fresh_sandbox.add_faults(Fault(400, body={"error": {"message": "this model rests"}}))
    found = compare_models(["BAAI/bge-m3", "text-embedding-3-small"], questions, passages, dimensions=(), **options)
    assert [result.variant.label for result in found.results] == ["text-embedding-3-small"]
    assert "this model rests" in str(found.failures["BAAI/bge-m3"])


def test_fatal_error_spares_the_requests_of_further_models(sandbox, passages, questions):
    names = ["BAAI/bge-m3", "text-embedding-3-small"]
    with pytest.raises(AuthenticationError):
        compare_models(names, questions, passages, api_key="sk-nano-wrong", base_url=sandbox.base_url)
    assert {request.model for request in sandbox.requests} == {"BAAI/bge-m3"}


def test_budget_holds_over_all_models(passages, questions, options):
    with pytest.raises(BudgetExceededError):
        compare_models(["BAAI/bge-m3"], questions, passages, budget_usd=1e-9, **options)
    first = compare_models(["BAAI/bge-m3"], questions, passages, **options).spent.cost_usd
    names = ["BAAI/bge-m3", "text-embedding-3-large"]
    found = compare_models(names, questions, passages, budget_usd=first * 2, **options)
    assert isinstance(found.failures["text-embedding-3-large"], BudgetExceededError)
    assert found.spent.cost_usd <= first * 2


def test_budget_holds_for_questions_with_and_without_instruction_together(sandbox, passages, questions, options):
    cost = compare_models([QWEN], questions, passages, **options).spent.cost_usd
    sandbox.clear()
    with pytest.raises(BudgetExceededError):
        compare_models([QWEN], questions, passages, budget_usd=cost * 0.9, **options)
    assert not set(inputs(sandbox)) & {passage.text for passage in passages}


def test_budget_of_a_model_without_a_price_is_refused_before_anything_is_sent(sandbox, passages, questions, options):
    models = ["text-embedding-3-small", "lab/model@https://models.example/v1"]
    with pytest.raises(ConfigurationError, match="budget_usd cannot be kept for 'lab/model'"):
        compare_models(models, questions, passages, budget_usd=1.0, **options)
    assert sandbox.requests == []


def test_progress_is_reported_for_each_model(passages, questions, options):
    seen = []
    compare_models(["BAAI/bge-m3"], questions, passages, progress=lambda *report: seen.append(report), **options)
    assert seen[-1] == ("BAAI/bge-m3", 4, 4)
