"""The stored format of an entry: dimensions, CRC-32 of key and numbers, numbers."""

import struct
import zlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nanogpt_core.cache.base import decode_entry, encode_entry, entry_dimensions

FLOATS = st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=9)


def written_out(key, numbers):
    packed = struct.pack(f"<{len(numbers)}f", *numbers)
    return struct.pack("<II", len(numbers), zlib.crc32(key + packed)) + packed


@given(st.binary(min_size=32, max_size=32), FLOATS)
def test_entry_format_is_dimensions_crc32_and_little_endian_floats(key, numbers):
    entry = written_out(key, numbers)
    assert encode_entry(key, np.array(numbers, dtype=np.float32)) == entry
    for form in (bytes, bytearray, memoryview):
        assert entry_dimensions(key, form(entry)) == len(numbers)
        assert decode_entry(key, form(entry)).tolist() == numbers
