"""The measured figures: medians by scenario and client."""

from __future__ import annotations

import statistics
from typing import Any

Samples = dict[str, dict[str, list[dict[str, Any]]]]


class Figures:
    """Medians by scenario and client; None if nothing was measured."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def values(self, scenario: str, client: str, name: str = "seconds") -> list[float]:
        """Return one value of all samples that succeeded, sorted."""
        return sorted(one[name] for one in self._samples.get(scenario, {}).get(client, []) if name in one)

    def median(self, scenario: str, client: str, name: str = "seconds") -> float | None:
        """Return the median."""
        values = self.values(scenario, client, name)
        return statistics.median(values) if values else None

    def first(self, scenario: str, client: str) -> dict[str, Any] | None:
        """Return the first sample that succeeded."""
        return next((one for one in self._samples.get(scenario, {}).get(client, []) if "error" not in one), None)

    def faster(self, scenario: str, ours: str, theirs: str) -> float | None:
        """Return how many times as fast ours is."""
        mine, other = self.median(scenario, ours), self.median(scenario, theirs)
        return other / mine if mine and other else None

    def error(self, scenario: str, client: str) -> str | None:
        """Return the error of a sample, or None."""
        found = (one["error"] for one in self._samples.get(scenario, {}).get(client, []) if "error" in one)
        return next(found, None)

    def has(self, scenario: str) -> bool:
        """Return True if the scenario was measured."""
        return scenario in self._samples
