"""Memory for matrices that are large."""

from __future__ import annotations

import ctypes
import mmap
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["empty_matrix"]

# From this size on, memory always comes as a mapping of its own, so that nothing else is affected.
_LARGE = 64 << 20


def empty_matrix(rows: int, width: int) -> NDArray[np.float32]:
    """Return a matrix, ``(rows, width)`` float32, of whatever is in its memory.

    numpy asks Linux for huge pages. A virtual machine whose host takes back memory that idles gets such a page from it
    anew, piece by piece: 0.29 s for the 120 MB of 20,000 vectors on the machine of ``benchmarks/RESULTS.md``, against
    0.06 s with ordinary pages. Where huge pages are to be had at once, they save a few hundredths of a second at most.
    """
    import numpy as np

    matrix = np.empty((rows, width), dtype=np.float32)
    madvise = _madvise() if matrix.nbytes >= _LARGE else None
    if madvise is not None:
        first = -(-matrix.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
        whole = (matrix.ctypes.data + matrix.nbytes - first) // mmap.PAGESIZE * mmap.PAGESIZE
        madvise(first, whole, mmap.MADV_NOHUGEPAGE)  # advice: where it is refused, all goes on as before
    return matrix


@cache
def _madvise() -> Any:
    if not hasattr(mmap, "MADV_NOHUGEPAGE"):
        return None
    try:
        function = getattr(ctypes.CDLL(None), "madvise", None)
    except OSError:  # a Python that is linked statically loads nothing
        return None
    if function is not None:
        function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function
