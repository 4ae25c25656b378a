"""The data of one server's checks: texts, expected vectors, and requests with and without our packages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from servers import KEY, Server, ask

from nanogpt_core import Embedder

# Many lengths, several scripts, line breaks; not sorted by length, as some servers sort a batch.
TEXTS = [f"{'word ' * (number * 7 % 19)}{number} – naïve, 文字,\n🐝 {number * number}" for number in range(90)]
REPEATED = [*TEXTS[:20], *TEXTS[10:30], TEXTS[0], TEXTS[89]]


@dataclass
class Case:
    """Data that the checks of one server need.

    Attributes:
        server: The server.
        model: A model's name that it takes.
        tolerance: Largest difference of a number from that of a request with one text.
        expected: For each text, the vector that the server gives it in a request of its own, as plain floats.
    """

    server: Server
    model: str
    tolerance: float = 0.0
    expected: dict[str, np.ndarray] = field(default_factory=dict)

    def raw(self, texts: list[str], *, key: str = KEY, **options: Any) -> tuple[int, Any]:
        """Send one request past our packages."""
        body = {"model": self.model, "input": texts, **options}
        return ask(f"{self.server.base_url}/embeddings", body, key=key)

    def embedder(self, model: str | None = None, **options: Any) -> Embedder:
        """Make an embedder for the server."""
        return Embedder(model or self.model, **{"base_url": self.server.base_url, "api_key": KEY, **options})

    def learn(self) -> None:
        """Fetch the expected vectors, one text per request."""
        for text in dict.fromkeys([*TEXTS, *REPEATED]):
            status, reply = self.raw([text], key="sk-reference" if self.server.name == "llmock" else KEY)
            assert status == 200, reply
            self.expected[text] = np.asarray(reply["data"][0]["embedding"], dtype=np.float64).astype(np.float32)
        rows = np.stack([self.expected[text] for text in TEXTS])
        apart = np.abs(rows[:, None] - rows[None]).max(axis=2) + np.eye(len(rows)) * 9
        # If not, a misplaced vector could pass as a rounding difference.
        assert apart.min() > 100 * self.tolerance, apart.min()

    def right(self, texts: list[str], vectors: Any) -> None:
        """Check that each text has its vector."""
        wanted = np.stack([self.expected[text] for text in texts])
        found = np.asarray(vectors, dtype=np.float32)
        assert found.shape == wanted.shape, (found.shape, wanted.shape)
        worst = float(np.abs(found - wanted).max())
        assert worst <= self.tolerance, f"differs by {worst}"
