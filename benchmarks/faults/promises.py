"""Promises that this project's own columns keep."""

from __future__ import annotations

from benchmarks.faults.fault import EITHER, RIGHT, Fault
from benchmarks.faults.judge import TYPED, Result

_COUNTED = ("refused", "unknown", "unknown issuer", "other host", "expired", "no TLS")


def broken(fault: Fault, result: Result) -> list[str]:
    """Return the promises that ``result`` of one of this project's clients breaks, in words."""
    found: list[str] = []
    wanted = {RIGHT, TYPED} if fault.want == EITHER else {fault.want}
    if result.outcome not in wanted:
        found.append(f"{result.outcome} instead of {fault.want}")
    if result.requests > fault.most:
        found.append(f"{result.requests} requests instead of at most {fault.most}")
    if fault.place in _COUNTED and result.connections > fault.most:
        found.append(f"{result.connections} connections instead of at most {fault.most}")
    if result.outcome == TYPED and fault.words and not any(word in result.message.lower() for word in fault.words):
        found.append(f"the message names none of {', '.join(fault.words)}")
    if result.virtual < fault.waits:
        found.append(f"waited {result.virtual:.1f} s instead of {fault.waits:g}")
    if fault.repeats is not None and result.repeats > fault.repeats:
        found.append(f"{result.repeats} texts paid for twice instead of at most {fault.repeats}")
    return found + result.leaks
