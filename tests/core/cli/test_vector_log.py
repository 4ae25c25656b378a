"""The log of finished vectors: an embedding cache that a kill cannot damage."""

import numpy as np
import pytest

from cache_contract import EmbeddingCacheContract
from nanogpt_core import Embedder, EmbeddingCache
from nanogpt_core.cli.job.vector_log import VectorLog

ENTRIES = {bytes([number]) * 32: bytes([number]) * (20 + number) for number in range(1, 9)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "vectors.log"


def filled(path):
    log = VectorLog(path)
    log.put_many(ENTRIES)
    log.close()
    return path.read_bytes()


def test_entries_are_there_when_the_file_is_opened_again(path):
    filled(path)
    log = VectorLog(path)
    assert isinstance(log, EmbeddingCache)
    assert log.get_many([*ENTRIES, b"x" * 32]) == ENTRIES
    assert len(log) == len(ENTRIES)
    assert repr(log) == f"VectorLog({str(path)!r})"  # in the warning that it failed
    log.close()


def test_any_truncation_keeps_the_complete_entries_and_can_be_continued(path):
    data = filled(path)
    ends = [len(data)]
    for entry in reversed(ENTRIES.values()):
        ends.append(ends[-1] - 40 - len(entry))
    for length in range(len(data)):
        path.write_bytes(data[:length])
        log = VectorLog(path)
        complete = sum(end <= length for end in ends[:-1])
        assert len(log) == complete
        log.put_many(ENTRIES)
        assert log.get_many(list(ENTRIES)) == ENTRIES
        log.close()
        again = VectorLog(path)
        assert again.get_many(list(ENTRIES)) == ENTRIES
        again.close()


def test_rest_of_an_incomplete_entry_is_never_read_as_entries(path):
    log = VectorLog(path)
    log.put_many({b"a" * 32: bytes(1000)})
    log.close()
    path.write_bytes(path.read_bytes()[:-1])
    log = VectorLog(path)
    log.put_many({b"b" * 32: b"short"})
    log.close()
    log = VectorLog(path)
    assert len(log) == 1
    assert log.get_many([b"", b"a" * 32, b"b" * 32]) == {b"b" * 32: b"short"}
    log.close()


def test_entry_with_an_impossible_length_ends_the_log(path):
    data = bytearray(filled(path))
    data[18 + 4 : 18 + 8] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    log = VectorLog(path)
    assert len(log) == 0
    log.close()


def test_other_file_is_replaced(path):
    path.write_bytes(b"not a log")
    log = VectorLog(path)
    log.put_many(ENTRIES)
    assert log.get_many(list(ENTRIES)) == ENTRIES
    log.close()


def test_damaged_vector_is_embedded_again(path, options, sandbox):
    texts = ["one text", "another text"]
    log = VectorLog(path)
    first = Embedder(**options, dimensions=16, cache=log).embed(texts)
    log.close()
    data = bytearray(path.read_bytes())
    data[-60] ^= 1  # a number of the last vector; the entry after it holds the dimensions
    path.write_bytes(data)
    log = VectorLog(path)
    sandbox.clear()
    assert np.array_equal(Embedder(**options, dimensions=16, cache=log).embed(texts), first)
    assert [request.items for request in sandbox.requests] == [1]
    log.close()


def test_entries_that_come_after_an_interrupt_are_dropped(path):
    log = VectorLog(path)
    log.close()
    log.put_many(ENTRIES)
    assert len(log) == 0
    assert log.failure is None


def test_failed_write_is_kept_for_the_command(path):
    log = VectorLog(path)
    log._file.close()
    log._file = path.open("rb", buffering=0)
    with pytest.raises(OSError, match="writ"):
        log.put_many(ENTRIES)
    assert isinstance(log.failure, OSError)
    log.close()


class TestVectorLogIsACache(EmbeddingCacheContract):
    @pytest.fixture(autouse=True)
    def _logs(self, tmp_path):
        self.folder, self.logs = tmp_path, []
        yield
        for log in self.logs:
            log.close()

    def make_cache(self):
        self.logs.append(VectorLog(self.folder / f"{len(self.logs)}.log"))
        return self.logs[-1]
