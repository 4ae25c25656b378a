"""The cost that replies give in ``x_nanogpt_pricing``, in usage and budget."""

import asyncio
import json
import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core import BudgetExceededError, Usage
from nanogpt_core.embeddings.response import parse_embeddings

SMALL = "text-embedding-3-small"
PRICE_USD = 0.02 / 1e6  # of one token


def priced(faults, pricing, width=1536, **more):
    """Answer an embeddings request rightly, with ``pricing``; a function gets the request."""

    def answer(seen):
        document = faults.document(seen.texts, width=width)
        value = pricing(seen) if callable(pricing) else pricing
        return faults.response({**document, "x_nanogpt_pricing": value, **more})

    return answer


COSTS = [
    # NanoGPT's documentation, of replies and of streams
    (
        {"amount": 0.000021, "currency": "USD", "cost": 0.000021, "paymentSource": "USD", "inputTokens": 9},
        0.000021,
    ),
    ({"cost": 0.000169, "inputTokens": 9, "outputTokens": 20, "cacheCost": 0, "paymentSource": "USD"}, 0.000169),
    ({"amount": 0.5, "currency": "usd"}, 0.5),
    ({"cost": "0.00042"}, 0.00042),
    ({"amount": "4.2e-5", "currency": "USD"}, 4.2e-5),
    ({"amount": 0, "currency": "USD"}, 0.0),
    ({"amount": None, "cost": 0.25}, 0.25),
    ({"amount": "free", "cost": 1}, 1.0),
    ({"cost": 0.1, "billedToTeam": True, "billedTeamId": 7, "new": [{}]}, 0.1),
]
NO_COSTS = [
    *(None, {}, [], "0.5", 0.5, True, [{"cost": 1}]),
    *(
        {"cost": None},
        {"cost": True},
        {"cost": -0.1},
        {"cost": "-1"},
        {"cost": "NaN"},
        {"cost": "inf"},
        {"cost": "1_0"},
    ),
    *({"cost": 1e300}, {"cost": 10**400}, {"cost": "1" * 5000}, {"cost": "٣"}, {"cost": [1]}, {"cost": {"usd": 1}}),
    *({"amount": 0.5, "currency": "XNO", "cost": 0.0001}, {"cost": 0.1, "paymentSource": "XNO"}),
    *({"amount": 0.5, "currency": "EUR"}, {"amount": 0.5, "currency": ["USD"]}, {"amount": 0.5, "currency": 1}),
    {"cost": 0.1, "error": {"status": 500, "message": "billing failed"}},
]


@pytest.mark.parametrize(("pricing", "cost"), COSTS, ids=str)
def test_cost_of_the_reply_is_used(embed, serve, faults, pricing, cost):
    embedder = serve(priced(faults, pricing)).embedder(SMALL)
    embed(embedder, ["one", "two"])
    assert embedder.usage.cost_usd == cost
    assert embedder.usage.prompt_tokens == len("onetwo")


@pytest.mark.parametrize("pricing", NO_COSTS, ids=lambda value: f"{value!s:.40}")
def test_without_a_cost_in_usd_the_listed_price_is_used(embed, serve, faults, pricing):
    embedder = serve(priced(faults, pricing)).embedder(SMALL)
    vectors = embed(embedder, ["one", "two"])
    assert vectors.shape == (2, 1536)
    assert embedder.usage.cost_usd == pytest.approx(len("onetwo") * PRICE_USD)


def test_costs_of_replies_and_listed_prices_add_up(embed, scripted, faults):
    server = scripted(priced(faults, {"cost": 0.25}), priced(faults, None), priced(faults, {"cost": "0.5"}))
    embedder = server.embedder(SMALL)
    for text in ("one", "three", "seventeen"):
        embed(embedder, [text])
    assert embedder.usage.cost_usd == pytest.approx(0.75 + len("three") * PRICE_USD)
    assert embedder.usage.requests == 3


def test_cost_of_a_reply_is_known_without_price_or_tokens(embed, serve, faults):
    embedder = serve(priced(faults, {"cost": 0.25}, usage=None)).embedder("lab/unlisted")
    embed(embedder, ["one"])
    assert embedder.usage == Usage(1, 0, None, 0.25, 1, 0)


def test_one_reply_without_any_cost_makes_the_sum_unknown(embed, scripted, faults):
    server = scripted(priced(faults, {"cost": 0.25}), priced(faults, None), priced(faults, {"cost": 0.25}))
    embedder = server.embedder("lab/unlisted")
    for text in ("one", "two", "three"):
        embed(embedder, [text])
    assert embedder.usage.cost_usd is None


def test_costs_are_exact_with_threads(serve, faults):
    embedder = serve(priced(faults, {"cost": 0.5}, width=6)).embedder(batch_size=1, max_concurrency=4)
    texts = [[f"thread {t} text {i}" for i in range(5)] for t in range(6)]
    threads = [threading.Thread(target=embedder.embed, args=(own,)) for own in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert embedder.usage.cost_usd == 15.0


def test_budget_counts_the_cost_of_replies(embed, serve, faults):
    embedder = serve(priced(faults, {"cost": 0.4})).embedder(SMALL, budget_usd=1)
    for text in ("one", "two", "three"):
        embed(embedder, [text])
    with pytest.raises(BudgetExceededError):
        embed(embedder, ["four"])
    assert embedder.usage.requests == 3
    assert embedder.usage.cost_usd == pytest.approx(1.2)


def test_lower_cost_leaves_more_of_the_budget(embed, serve, faults):
    embedder = serve(priced(faults, {"amount": 0, "currency": "USD"})).embedder(SMALL, budget_usd=3 * PRICE_USD)
    for text in ("one", "two", "three"):
        embed(embedder, [text])
    assert embedder.usage.cost_usd == 0


async def test_concurrent_async_calls_add_their_costs(serve, faults):
    embedder = serve(priced(faults, {"cost": 0.5}, width=6)).embedder(coalesce=False)
    await asyncio.gather(*[embedder.aembed([f"text {number}"]) for number in range(6)])
    assert embedder.usage.cost_usd == 3.0


LEAF = st.none() | st.booleans() | st.integers(-(10**400), 10**400) | st.floats() | st.text(max_size=8)
JSON = LEAF | st.lists(LEAF, max_size=3) | st.dictionaries(st.text(max_size=4), LEAF, max_size=3)
NUMBER = st.floats(0, 10).map(str) | st.floats() | st.integers(-3, 3) | JSON
PRICING = st.fixed_dictionaries(
    {},
    optional={
        "amount": NUMBER,
        "cost": NUMBER,
        "currency": st.sampled_from(["USD", "usd", "XNO"]) | JSON,
        "paymentSource": st.sampled_from(["USD", "XNO", "subscription"]) | JSON,
        "error": st.none() | JSON,
    },
)


@given(PRICING | JSON)
def test_odd_pricing_is_a_finite_cost_or_none(pricing):
    data = [{"index": 0, "embedding": [1.0, 2.0]}]
    body = json.dumps({"data": data, "x_nanogpt_pricing": pricing}).encode()
    response = parse_embeddings(body, 1)
    assert response.vectors.tolist() == [[1.0, 2.0]]
    cost = response.cost_usd
    assert cost is None or (type(cost) is float and cost >= 0 and math.isfinite(cost))
