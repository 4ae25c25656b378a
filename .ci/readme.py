"""Write the generated parts of the docs: options, models, measurements, modules and the index of ADRs.

``python .ci/readme.py`` rewrites them; ``python .ci/readme.py --check`` fails if one of them is outdated.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from nanogpt_core import MODELS, Embedder, ModelInfo
from nanogpt_core.sandbox import SERVICE_ERRORS, SandboxConfig
from nanogpt_core.sandbox.__main__ import make_parser

ROOT = Path(__file__).resolve().parents[1]
_CLAUSE_END = re.compile(r"\. |: |; |, (?:and|so|such|with) ")
_SHORT_MODEL_COLUMNS = (0, 1, 3, 4, 5)


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


def short_options_table() -> str:
    """Return the options with the first clause of each default and meaning."""
    rows = []
    for row in options_table().splitlines():
        name, default, meaning = row.strip("|").split(" | ", 2) if row.startswith("| ") else ("", "", "")
        short = (re.split(_CLAUSE_END, part)[0].strip(" |.:") for part in (default, meaning))
        rows.append(f"|{name} | {' | '.join(short)} |" if name else row)
    return "\n".join(rows)


def models_table() -> str:
    """Return the models of the catalog as a Markdown table."""
    head = "| model | dimensions | reduces to | price | tokens per text | languages | instruction |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *map(_model_row, MODELS.values())])


def short_models_table() -> str:
    """Return the models with the columns that most readers need."""
    rows = [row.strip("| ").split("|") for row in models_table().splitlines()]
    return "\n".join(f"| {' | '.join(row[i].strip() for i in _SHORT_MODEL_COLUMNS)} |" for row in rows)


def sources_table() -> str:
    """Return the sources of the catalog's rows as a Markdown table."""
    rows = [f"| `{model.id}` | {model.source} |" for model in MODELS.values()]
    return "\n".join(["| model | sources |", "|---|---|", *rows])


def sandbox_table() -> str:
    """Return the options of ``Sandbox`` as a Markdown table, with those of its command line."""
    rows = ["| option | default | command line | meaning |", "|---|---|---|---|"]
    section = (inspect.getdoc(SandboxConfig) or "").split("Attributes:\n")[1]
    flags = {action.dest: action.option_strings[0] for action in make_parser()._actions}
    for block in re.split(r"\n(?=    \w)", section.rstrip()):
        name, _, text = " ".join(block.split()).partition(": ")
        field = SandboxConfig.__dataclass_fields__[name]
        default = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[misc]
        flag = f"`{flags[name]}`" if name in flags else ""
        rows.append(f"| `{name}` | `{_literal(default)}` | {flag} | {text.replace('``', '`')} |")
    return "\n".join(rows)


def service_errors_table() -> str:
    """Return the errors of ``SERVICE_ERRORS`` as a Markdown table."""
    rows = ["| key | status | message |", "|---|--:|---|"]
    for name, fault in SERVICE_ERRORS.items():
        body: Any = fault.body
        error = body.get("error", body)
        message = error if isinstance(error, str) else error["message"]
        rows.append(f"| `{name}` | {fault.status} | {message} |")
    return "\n".join(rows)


def fault_totals() -> str:
    """Return the outcomes of all faults of embeddings and of chat as one Markdown table, from benchmarks/FAULTS.md."""
    report = (ROOT / "benchmarks" / "FAULTS.md").read_text(encoding="utf-8").split("## How to read it")[0]
    parts = {title.lower(): report.split(f"### {title}\n")[1].split("\n###")[0] for title in ("Embeddings", "Chat")}
    clients = {
        "embeddings": ("core", "LangChain", "LlamaIndex", "OpenAI SDK", "langchain-openai", "LlamaIndex OpenAI"),
        "chat": ("LangChain", "LlamaIndex", "langchain-openai", "LlamaIndex OpenAI"),
    }
    ours = {"core": "`Embedder`", "LangChain": "`langchain_nanogpt`", "LlamaIndex": "`llama_index_nanogpt`"}
    outcomes = ("faults", "right", "typed error", "raw error", "silently wrong", "hang")
    rows = [f"| | client | {' | '.join(outcomes)} |", "|---|---|" + "--:|" * len(outcomes)]
    for kind, part in parts.items():
        table = [line.split("|")[1:-1] for line in part.splitlines() if line.startswith("|")]
        head, _, *body = [[cell.strip() for cell in line] for line in table]
        values = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}
        for client in clients[kind]:
            figures = " | ".join(values[outcome][client] for outcome in outcomes)
            rows.append(f"| {kind} | {ours.get(client, client)} | {figures} |")
    return "\n".join(rows)


def speed_table() -> str:
    """Return the throughput of a few clients as a Markdown table, from benchmarks/RESULTS.md."""
    report = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    without, with_latency = (
        dict(
            re.findall(
                r"^\| (.+?) \| \w+ \| ([\d,]+) \|",
                report.split(f"## 20,000 texts, {title}\n")[1].split("\n## ")[0],
                re.MULTILINE,
            )
        )
        for title in ("no latency", "100 ms latency a request")
    )
    clients = {
        "Embedder.embed": "`Embedder.embed` (array)",
        "NanoGPTEmbeddings.embed_documents": "`NanoGPTEmbeddings` (lists)",
        "NanoGPTEmbedding.get_text_embedding_batch": "`NanoGPTEmbedding` (lists)",
        "langchain-openai": "`OpenAIEmbeddings` (lists)",
        "LlamaIndex OpenAIEmbedding": "`OpenAIEmbedding` (lists)",
    }
    rows = ["| client, at its defaults | texts/s, 100 ms latency | texts/s, no latency |", "|---|--:|--:|"]
    return "\n".join(
        [*rows, *(f"| {shown} | {with_latency[name]} | {without[name]} |" for name, shown in clients.items())]
    )


def processes_table() -> str:
    """Return the throughput of several processes with one key as a Markdown table, from benchmarks/SCALE.md."""
    report = (ROOT / "benchmarks" / "SCALE.md").read_text(encoding="utf-8")
    cases = {
        "one process, without Redis": "one process",
        "four processes, without Redis": "four processes, each by itself",
        "four processes, told the rate": "four processes with shared limits, told the rate: `requests_per_second=20`",
        "four processes, not told the rate": "four processes with shared limits, not told the rate",
    }
    measured = dict(re.findall(r"^\| (.+?) \| ([\d.]+ answers/s .+?) \|", report, re.MULTILINE))
    rows = ["| | answers per second | refused |", "|---|--:|--:|"]
    for case, shown in cases.items():
        answers, refused = re.findall(r"([\d.]+)(?: answers/s|% refused)", measured[case])
        rows.append(f"| {shown} | {answers} | {refused} % |")
    return "\n".join(rows)


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
    "README.md": {"options": short_options_table, "models": short_models_table},
    "docs/reference/options.md": {"options": options_table},
    "docs/reference/models.md": {"models": models_table, "sources": sources_table},
    "docs/sandbox.md": {"sandbox": sandbox_table, "service errors": service_errors_table},
    "docs/benchmarks.md": {"faults": fault_totals, "speed": speed_table},
    "docs/guides/rate_limits.md": {"processes": processes_table},
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
    instruction = "yes" if model.query_instruction else "–"
    return f"| `{model.id}` | {dimensions} | {reduces} | {price} | {tokens} | {languages} | {instruction} |"


def main(words: list[str]) -> None:
    """Rewrite the generated parts, or check them."""
    outdated = [page for page in PARTS if update(page) != (ROOT / page).read_text(encoding="utf-8")]
    if words == ["--check"]:
        sys.exit(f"Outdated: {', '.join(outdated)}. Run `make readme`." if outdated else 0)
    for page in outdated:
        (ROOT / page).write_text(update(page), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
