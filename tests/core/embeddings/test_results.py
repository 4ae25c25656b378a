"""Results of one call: output containers, and the collector that refuses to return if a row is missing."""

import gc

import numpy as np
import pytest

from nanogpt_core import MODELS, NanoGPTError
from nanogpt_core._runtime.log import DistinctWarnings
from nanogpt_core.embeddings.planning import Batch, make_plan
from nanogpt_core.embeddings.response import DimensionsCheck, EmbeddingResponse
from nanogpt_core.embeddings.results import ArrayOutput, ListOutput, ResultCollector
from nanogpt_core.models.tokens import TokenCounter

MODEL = MODELS["text-embedding-3-small"]
COUNTER = TokenCounter(MODEL)
PLAN = make_plan(["one", "two", "three", "four"], COUNTER, "error")
REPEATED = make_plan(["one", "two", "one"], COUNTER, "error")
OUTPUTS = pytest.mark.parametrize("output", [ArrayOutput, ListOutput])


def vectors(count, dimensions, first=1.0):
    return np.full((count, dimensions), first, dtype=np.float32)


def put(output, rows, values):
    for _ in output.put(rows, values):
        pass


def test_vectors_written_in_place_are_not_copied():
    array = ArrayOutput(PLAN)
    out = array.out(range(1, 3), 2)
    out[:] = [[1, 2], [3, 4]]
    put(array, range(1, 3), out)
    put(array, [0, 3], vectors(2, 2, 9))
    result = array.result(2)
    assert result.tolist() == [[9, 9], [1, 2], [3, 4], [9, 9]]
    assert np.shares_memory(result, out)


def test_rows_that_are_not_contiguous_get_no_output_buffer():
    assert ArrayOutput(PLAN).out([0, 2], 2) is None


def test_other_dimensions_than_expected_lose_no_vectors():
    array = ArrayOutput(PLAN)
    assert array.out(range(2), 2).shape == (2, 2)
    put(array, range(2), vectors(2, 3))
    assert array.out(range(2, 4), 2) is None, "a request that still expects the old dimensions"
    put(array, range(2, 4), vectors(2, 3, 5))
    assert array.result(3).tolist() == [[1] * 3] * 2 + [[5] * 3] * 2


@pytest.mark.parametrize(("plan", "has_array"), [(PLAN, False), (REPEATED, True)], ids=["one-to-one", "repeated"])
def test_lists_are_made_from_an_array_only_if_texts_are_repeated(plan, has_array):
    assert (ListOutput(plan).out(range(2), 2) is not None) is has_array


@OUTPUTS
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300])
def test_outputs_return_the_vectors_in_order(output, count):
    plan = make_plan([f"text {i}" for i in range(count)], COUNTER)
    values = np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)
    made = output(plan)
    if count:
        put(made, range(count), values)
    result = made.result(3)
    assert np.asarray(result, dtype=np.float32).reshape(-1, 3).tolist() == values.tolist()
    if output is ListOutput:
        assert {type(number) for row in result for number in row} <= {float}


def collector(plan, output):
    return ResultCollector(
        plan,
        output(plan),
        dimensions_check=DimensionsCheck(MODEL),
        model=MODEL.id,
        cache=None,
        advance=None,
        warnings=DistinctWarnings(),
    )


def accept(results, rows, values):
    batch = Batch([PLAN.request_texts[row] for row in rows], rows, list(rows), [])
    for _ in results.accept(batch, EmbeddingResponse(values, 1, MODEL.id)):
        pass


@OUTPUTS
def test_finish_raises_if_a_row_is_missing(output):
    results = collector(PLAN, output)
    accept(results, range(1, 3), vectors(2, 1536))
    with pytest.raises(NanoGPTError, match="2 of 4 vectors are missing") as caught:
        results.finish()
    results.add_completed_to(caught.value)
    assert caught.value.failed_positions == (0, 3)
    assert list(caught.value.completed) == [1, 2]
    accept(results, range(1), vectors(1, 1536))
    accept(results, range(3, 4), vectors(1, 1536))
    assert len(results.finish()) == 4


def make_lists(count):
    plan = make_plan([f"text {i}" for i in range(count)], COUNTER)
    lists = ListOutput(plan)
    put(lists, range(count), vectors(count, 2))
    return lists.result(2)


def test_lists_are_moved_to_the_oldest_gc_generation():
    gc.unfreeze()  # tests/conftest.py freezes the imported modules
    try:
        made = make_lists(5000)
        young = {id(one) for generation in (0, 1) for one in gc.get_objects(generation=generation)}
    finally:
        gc.collect()
        gc.freeze()
    assert sum(id(row) in young for row in made) < 64


def test_objects_that_the_application_froze_stay_frozen():
    gc.collect()
    gc.freeze()
    frozen = gc.get_freeze_count()
    make_lists(300)
    assert gc.get_freeze_count() > frozen // 2 > 0  # some are freed one by one
