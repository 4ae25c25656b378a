"""Promises that this project's own columns keep."""

from __future__ import annotations

from benchmarks.faults.fault import EITHER, RIGHT, Fault
from benchmarks.faults.gathered import CALLS, GATHERED
from benchmarks.faults.judge import TYPED, Result

_COUNTED = ("refused", "unknown", "unknown issuer", "other host", "expired", "no TLS")


def broken(fault: Fault, client: str, result: Result) -> list[str]:
    """Return the promises that ``result`` of one of this project's clients breaks, in words."""
    found: list[str] = []
    wanted, most, words = {fault.want}, fault.most, fault.words
    if client == GATHERED:
        # After a bad reply each call is sent by itself, and may be answered. A position is that of its own text.
        wanted, most, words = wanted | ({RIGHT} if fault.want == TYPED else set()), 2 * CALLS * most, ()
    wanted = {RIGHT, TYPED} if fault.want == EITHER else wanted
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
