"""An entry as it is stored: width, CRC-32 of key and numbers, numbers; whoever counts the checksum."""

import struct
import subprocess
import sys
import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core.cache.base import entry_of, vectors_of, width_of

FLOATS = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9)


def written_out(key, numbers):
    packed = struct.pack(f"<{len(numbers)}f", *numbers)
    return struct.pack("<II", len(numbers), zlib.crc32(key + packed)) + packed


@given(st.binary(min_size=32, max_size=32), FLOATS)
def test_an_entry_is_as_any_program_would_write_it(key, numbers):
    entry = written_out(key, numbers)
    assert entry_of(key, np.array(numbers, dtype=np.float32)) == entry
    assert width_of(key, entry) == len(numbers)
    assert vectors_of([key], [entry]).tolist() == [numbers]


def test_it_is_the_same_where_there_is_no_isal():
    code = """
import sys
sys.modules["isal"] = None
import numpy as np
from nanogpt_core.cache import base as cache
assert cache.crc32.__module__ == "zlib", cache.crc32
print(cache.entry_of(b"k" * 32, np.array([1, 2.5], dtype=np.float32)).hex())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert bytes.fromhex(done.stdout) == written_out(b"k" * 32, [1.0, 2.5])
