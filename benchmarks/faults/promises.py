"""Promises that this project's own columns keep."""

from __future__ import annotations

from benchmarks.faults.fault import EITHER, RIGHT, Fault
from benchmarks.faults.gathered import CALLS, GATHERED
from benchmarks.faults.judge import TYPED, Result

_COUNTED = ("refused", "unknown", "unknown issuer", "other host", "expired", "no TLS")


def broken(fault: Fault, client: str, result: Result) -> list[str]:
    """Return the promises that ``result`` of one of this project's clients breaks, in words."""
    found: list[str] = []
    # A search for a bad text may begin, and a position is that of a call's own text.
    most, words = (2 * CALLS * fault.most, ()) if client == GATHERED else (fault.most, fault.words)
    wanted = {RIGHT, TYPED} if fault.want == EITHER else {fault.want}
    if result.outcome not in wanted:
        found.append(f"{result.outcome} instead of {fault.want}")
    if result.requests > most:
        found.append(f"{result.requests} requests instead of at most {most}")
    if fault.place in _COUNTED and result.connections > fault.most:
        found.append(f"{result.connections} connections instead of at most {fault.most}")
    if result.outcome == TYPED and words and not any(word in result.message.lower() for word in words):
        found.append(f"the message names none of {', '.join(words)}")
    if result.virtual < fault.waits:
        found.append(f"waited {result.virtual:.1f} s instead of {fault.waits:g}")
    if fault.repeats is not None and result.repeats > fault.repeats:
        found.append(f"{result.repeats} texts paid for twice instead of at most {fault.repeats}")
    return found + result.leaks
