"""Write the generated parts of README and docs: options, models, modules and the index of ADRs.

``python .ci/readme.py`` rewrites them; ``python .ci/readme.py --check`` fails if one of them is outdated.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

from nanogpt_core import MODELS, Embedder, ModelInfo

ROOT = Path(__file__).resolve().parents[1]


def options_table() -> str:
    """Return the options of ``Embedder`` as a Markdown table, from its signature and docstring."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    described = _described_options()
    for name, parameter in inspect.signature(Embedder).parameters.items():
        text, default = described[name]
        if parameter.default is not None:
            default = f"`{_literal(parameter.default)}`"
        rows.append(f"| `{name}` | {default or 'none'} | {text} |")
    return "\n".join(rows)


def models_table() -> str:
    """Return the models of the catalog as a Markdown table."""
    rows = ["| model | dimensions | reduces to | price | tokens per text | languages |", "|---|---|---|---|---|---|"]
    return "\n".join([*rows, *map(_model_row, MODELS.values())])


def modules_table() -> str:
    """Return all modules of the three packages as a Markdown table, with the first lines of their docstrings."""
    rows = ["| module | content |", "|---|---|"]
    for package in ("nanogpt_core", "langchain_nanogpt", "llama_index_nanogpt"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix().removesuffix("/__init__.py")
            summary = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
            text = " ".join(re.sub(r":\w+:`([^`]+)`", r"`\1`", summary).replace("``", "`").replace("|", r"\|").split())
            rows.append(f"| `{name}` | {text} |")
    return "\n".join(rows)


def adr_index() -> str:
    """Return the titles of the ADRs as a Markdown list of links."""
    rows = []
    for file in sorted((ROOT / "docs" / "adr").glob("[0-9]*.md")):
        title = file.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        rows.append(f"- [{file.name[:4]}]({file.name}): {re.sub(r'^[0-9]+[.:]? ', '', title)}")
    return "\n".join(rows)


PARTS = {
    "README.md": {"options": options_table, "models": models_table},
    "docs/architecture.md": {"modules": modules_table},
    "docs/adr/README.md": {"index": adr_index},
}


def update(page: str) -> str:
    """Return the text of a page with current generated parts."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, make in PARTS[page].items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{make()}\n{end}{rest.partition(end)[2]}"
    return text


def _described_options() -> dict[str, tuple[str, str]]:
    """Return meaning and default of each option in the docstring's ``Args`` section."""
    section = re.split(r"\n(?:Args|Raises|Returns):\n", inspect.getdoc(Embedder) or "")[1]
    found = {}
    for block in re.split(r"\n(?=    \w)", section.rstrip()):
        name, _, text = " ".join(block.split()).partition(": ")
        text = re.sub(r":\w+:`(?:nanogpt_core\.)?([^`]+)`", r"`\1`", text).replace("``", "`").replace("|", r"\|")
        default = re.search(r" Default: ((?:[^.]|\.(?=\S))+)\.(?= |$)", text)
        found[name] = (text.replace(default[0], "") if default else text, default[1] if default else "")
    return found


def _literal(value: object) -> str:
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _model_row(model: ModelInfo) -> str:
    dimensions = f"{model.dimensions}" + (f" ({model.listed_dimensions})" if model.listed_dimensions else "")
    reduces = f"{model.min_dimensions} to {model.max_dimensions}" if model.reduces else "–"
    price = f"{model.usd_per_million_tokens:.3f}".rstrip("0")
    price += "0" * (2 - len(price.partition(".")[2]))
    languages = ", ".join(model.languages)
    tokens = f"{model.max_tokens:,}" if model.max_tokens else "unknown"
    return f"| `{model.id}` | {dimensions} | {reduces} | {price} | {tokens} | {languages} |"


def main(words: list[str]) -> None:
    """Rewrite the generated parts, or check them."""
    outdated = [page for page in PARTS if update(page) != (ROOT / page).read_text(encoding="utf-8")]
    if words == ["--check"]:
        sys.exit(f"Outdated: {', '.join(outdated)}. Run `make readme`." if outdated else 0)
    for page in outdated:
        (ROOT / page).write_text(update(page), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
