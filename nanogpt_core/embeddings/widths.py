"""What to say where a vector store holds vectors of another width than a model's."""

from __future__ import annotations

from nanogpt_core.errors import ConfigurationError
from nanogpt_core.models.catalog import MODELS, ModelInfo

__all__ = ["dimensions_mismatch"]

_MOST_NAMES = 4


def dimensions_mismatch(model: ModelInfo, width: int | None, stored_width: int) -> ConfigurationError:
    """Return the error for a store of ``stored_width`` floats a vector and a model of another width.

    Args:
        model: The model.
        width: Floats in the model's vectors, as they were asked for; None where sources give several numbers.
        stored_width: Floats in the store's vectors.
    """
    own = str(width) if width is not None else " or ".join(map(str, sorted(model.widths)))
    return ConfigurationError(
        f"The store holds vectors of {stored_width:,} floats; those of {model.id} have {own}.",
        remedy=_remedy(model, stored_width),
    )


def _remedy(model: ModelInfo, stored_width: int) -> str:
    ways = []
    if model.reduces and (model.min_dimensions or 1) <= stored_width <= (model.max_dimensions or 0):
        ways.append(f"pass dimensions={stored_width}, if this model filled it with them")
    fitting = [row.id for row in MODELS.values() if stored_width in row.widths and row.id != model.id]
    shown = ", ".join(fitting[:_MOST_NAMES]) + (" or another" if len(fitting) > _MOST_NAMES else "")
    ways.append("open it with the model that filled it" + (f" (such vectors come from {shown})" if fitting else ""))
    ways.append(f"or fill a new store with {model.id}")
    text = ", ".join(ways)
    return f"{text[0].upper()}{text[1:]}."
