"""Options that several commands share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter

__all__ = ["JsonFlag", "ModelOptions"]

# There is no option for the key: every user of the machine can read the arguments of a running process.

JsonFlag = Annotated[bool, Parameter(name="--json", negative=())]
"""Type of the option ``--json``: print one JSON document and nothing else on standard output."""


@Parameter(name="*")
@dataclass(frozen=True)
class ModelOptions:
    """The model and its address.

    Attributes:
        model: Name of the embedding model. `nanogpt models` lists them.
        dimensions: Reduce the vectors to so many dimensions, for models that support it.
        base_url: Address of the API. Default: `NANOGPT_BASE_URL`, then NanoGPT's own.
    """

    model: Annotated[str, Parameter(alias="-m")] = "text-embedding-3-small"
    dimensions: Annotated[int | None, Parameter(alias="-d")] = None
    base_url: str | None = None

    def for_embedder(self) -> dict[str, Any]:
        """Return the options as keyword arguments of :class:`nanogpt_core.Embedder`."""
        return {"model": self.model, "dimensions": self.dimensions, "base_url": self.base_url}
