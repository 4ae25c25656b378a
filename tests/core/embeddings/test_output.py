"""Where a call's vectors go: they are written where they belong, and count once they are put."""

import re
from pathlib import Path

import numpy as np
import pytest

from nanogpt_core import MODELS
from nanogpt_core.embeddings.memory import empty_matrix
from nanogpt_core.embeddings.output import ArrayOutput, ListOutput
from nanogpt_core.embeddings.planning import make_plan
from nanogpt_core.models.tokens import TokenCounter

COUNTER = TokenCounter(MODELS["text-embedding-3-small"])
PLAN = make_plan(["one", "two", "three", "four"], COUNTER, "error")
REPEATED = make_plan(["one", "two", "one"], COUNTER, "error")


def vectors(count, width, first=1.0):
    return np.full((count, width), first, dtype=np.float32)


def test_what_is_written_in_its_place_is_not_copied():
    matrix = ArrayOutput(PLAN)
    room = matrix.room(range(1, 3), 2)
    room[:] = [[1, 2], [3, 4]]
    matrix.put(range(1, 3), room)
    matrix.put([0, 3], vectors(2, 2, 9))
    found = matrix.result(2)
    assert found.tolist() == [[9, 9], [1, 2], [3, 4], [9, 9]]
    assert np.shares_memory(found, room)


def test_rows_apart_have_no_room():
    assert ArrayOutput(PLAN).room([0, 2], 2) is None


def test_another_width_than_expected_does_not_lose_what_was_put():
    matrix = ArrayOutput(PLAN)
    assert matrix.room(range(2), 2).shape == (2, 2)
    matrix.put(range(2), vectors(2, 3))
    assert matrix.room(range(2, 4), 2) is None, "a request that still expects the old width"
    matrix.put(range(2, 4), vectors(2, 3, 5))
    assert matrix.result(3).tolist() == [[1] * 3] * 2 + [[5] * 3] * 2


@pytest.mark.parametrize(("plan", "roomy"), [(PLAN, False), (REPEATED, True)], ids=["plain", "repeated"])
def test_lists_have_room_where_there_is_a_matrix_first(plan, roomy):
    lists = ListOutput(plan)
    assert (lists.room(range(2), 2) is not None) is roomy


def flags_of(address):
    """What Linux says of the mapping that an address is in."""
    for block in re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text()):
        first, end = (int(part, 16) for part in block.split(maxsplit=1)[0].split("-"))
        if first <= address < end:
            return block.rpartition("VmFlags:")[2].split()
    return []


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Only Linux tells how memory is mapped.")
@pytest.mark.parametrize(("rows", "plain"), [(20_000, True), (1_000, False)])
def test_large_matrices_are_in_ordinary_pages(rows, plain):
    matrix = empty_matrix(rows, 1536)
    assert matrix.shape == (rows, 1536)
    assert matrix.dtype == np.float32
    assert ("nh" in flags_of(matrix.ctypes.data + matrix.nbytes // 2)) is plain
