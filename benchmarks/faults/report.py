"""The table, as text on the screen and as ``FAULTS.md``."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from benchmarks.faults.chat_clients import CHAT_CLIENTS, CHAT_OURS
from benchmarks.faults.clients import CLIENTS, OURS, OWN_COLUMNS
from benchmarks.faults.environment import machine, versions
from benchmarks.faults.fault import Fault
from benchmarks.faults.judge import HANG, RAW, TYPED, WRONG, Result
from benchmarks.faults.measuring import HANGS_AFTER
from benchmarks.faults.network import TIMEOUT

OUTCOMES = ("right", TYPED, RAW, WRONG, HANG)
_COUNTED_BY_CONNECTION = ("refused", "unknown", "unknown issuer", "other host", "expired", "no TLS")
_MUCH_MEMORY = 64


@dataclass
class Row:
    """One fault, and each client's result; None if it does not concern a client."""

    fault: Fault
    results: dict[str, Result | None]

    def requests(self, client: str) -> int:
        """Return the attempts of ``client``: requests, or connections if no request can come through."""
        result = self.results[client]
        if result is None:
            return 0
        return result.connections if self.fault.place in _COUNTED_BY_CONNECTION else result.requests

    def cell(self, client: str) -> str:
        """Return the table's words about ``client``."""
        result = self.results[client]
        if result is None:
            return "–"
        name = f": {result.error}" if result.error else ""
        outcome = result.outcome if result.outcome in ("right", TYPED) else f"**{result.outcome}**"
        extras = [f"{result.memory:,.0f} MiB"] if result.memory > _MUCH_MEMORY else []
        extras += [f"{result.kept} vectors kept"] if result.kept else []
        extras += [f"{result.repeats} texts paid twice"] if self.fault.repeats is not None else []
        extras += [f"**{leak}**" for leak in result.leaks]
        return ", ".join([f"{outcome}{name}", f"{self.requests(client)} req", f"{result.waited:.1f} s", *extras])


def line(row: Row) -> str:
    """Return one row for the screen."""
    cells = [f"    {client:18} {row.cell(client).replace('*', '')}" for client in _columns([row])]
    return "\n".join([f"{row.fault.group}: {row.fault.name}", *cells])


def totals(rows: list[Row]) -> str:
    """Return how often each outcome came, as a table; ``rows`` are of embeddings only, or of chat only."""
    clients = _columns(rows)
    lines = ["| | " + " | ".join(clients) + " |", "|---|" + "--:|" * len(clients)]
    for outcome in OUTCOMES:
        counts = [Counter(_outcomes(rows, client))[outcome] for client in clients]
        lines.append(f"| {outcome} | " + " | ".join(map(str, counts)) + " |")
    measures = {
        "faults": lambda client: len(_results(rows, client)),
        "not concerned": lambda client: len(rows) - len(_results(rows, client)),
        "something leaked": lambda client: sum(bool(result.leaks) for result in _results(rows, client)),
        "most requests for one fault": lambda client: max([0, *(row.requests(client) for row in rows if _single(row))]),
        "longest time until an answer, s": lambda client: (
            f"{max([0, *(r.waited for r in _results(rows, client))]):.0f}"
        ),
    }
    for name, measure in measures.items():
        lines.append(f"| {name} | " + " | ".join(str(measure(client)) for client in clients) + " |")
    return "\n".join(lines)


def split(rows: list[Row]) -> list[list[Row]]:
    """Return the rows of embeddings and those of chat, without an empty list."""
    parts = [[row for row in rows if row.fault.is_chat is is_chat] for is_chat in (False, True)]
    return [part for part in parts if part]


def _columns(rows: list[Row]) -> tuple[str, ...]:
    return CHAT_CLIENTS if rows[0].fault.is_chat else CLIENTS


def _single(row: Row) -> bool:
    return row.fault.is_chat or row.fault.task in ("embed", "in_loop", "construct")


def _results(rows: list[Row], client: str) -> list[Result]:
    return [result for row in rows if (result := row.results[client]) is not None]


def _outcomes(rows: list[Row], client: str) -> list[str]:
    return [result.outcome for result in _results(rows, client)]


def document(rows: list[Row], broken: list[str]) -> str:
    """Return the whole of ``FAULTS.md``."""
    embeddings, chat = split(rows)
    parts = [
        _HEAD.format(versions=versions(), machine=machine(), count=len(embeddings), chat_count=len(chat)),
        *("### Embeddings", totals(embeddings), "### Chat", totals(chat)),
        _verdict(broken),
    ]
    parts += [_HOW.format(timeout=TIMEOUT, limit=HANGS_AFTER), "## Every fault"]
    for group in dict.fromkeys(row.fault.group for row in rows):
        parts += [f"### {group}", _table([row for row in rows if row.fault.group == group])]
    parts += ["## Error messages of this project", _WORDS, _messages(rows)]
    return "\n\n".join(parts) + "\n"


def _verdict(broken: list[str]) -> str:
    if not broken:
        return f"Broken promises in the columns {', '.join(OWN_COLUMNS)}: none."
    return "Broken promises:\n\n" + "\n".join(f"- {what}" for what in broken)


def _table(rows: list[Row]) -> str:
    clients = _columns(rows)
    lines = ["| fault | " + " | ".join(clients) + " |", "|---|" + "---|" * len(clients)]
    lines += [f"| {row.fault.name} | " + " | ".join(row.cell(client) for client in clients) + " |" for row in rows]
    return "\n".join(lines)


def _messages(rows: list[Row]) -> str:
    lines = ["| fault | error |", "|---|---|"]
    for row in rows:
        result = row.results[CHAT_OURS[0] if row.fault.is_chat else OURS[0]]
        if result is not None and result.error:
            lines.append(f"| {row.fault.name} | `{result.error}`: {_plain(result.message)} |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("[", "\\[")


_HEAD = """# Faults

Results of this project's three entry points and three other clients for {count} faults of embeddings, and of its two
chat classes and two others for {chat_count} faults of chat. In one more column, 16 calls at once share requests.
Written by `make faults`, which measures all of them anew.

Measured: {versions}.
On: {machine}.

## Totals"""

_HOW = """## How to read it

Each fault and client meet in a process of their own, against a server of their own on loopback, with eight short texts
whose right vectors are known. Clients have their own defaults but for address, key and a time limit: 10 s, and
{timeout:g} s for faults of time;
`langchain-openai` sends texts (`check_embedding_ctx_length=False`), since by default it sends OpenAI's token numbers.
The chat clients get the default model name `gpt-4o-mini`, and are asked for token counts in streams.
In the column "core, 16 calls" there are two calls for each text at once, over an object with one slot, after a first
request that is not counted. The calls share requests, and one of them that fails counts for all.
"Once" means that the server answers rightly from the second request on.

- **right**: every vector equals the right one in float32, in order.
- **typed error**: the client's own error: a `NanoGPTError` of a definite class, an `OpenAIError`, an error of
  LangChain's own, or a `ValueError` that names the cause in words.
- **raw error**: any other: a parser's, a decoder's, an attribute that is missing.
- **silently wrong**: something was returned, and it was not right. In chat that is an answer that the model did not
  give or that is cut off, token counts that are missing or too high, or a tool that was called with arguments that the
  model did not write.
- **hang**: no end within {limit:g} s of real time.
- **req**: requests that the server saw; connections tried, if no request can come through.
- **s**: seconds until the outcome. Waits between attempts are virtual: they count here, and take no time.
- **faults**: the faults that concern a client: the sum of its outcomes. **Not concerned**: faults of something that the
  client does not have, such as LlamaIndex's events or `model_copy`; their cells have a dash.
- Bold words at a cell's end name a leak: a key in a traceback as Python prints it, or in its frames' locals; data that
  arrived at another host, or that was meant for another service."""

_WORDS = (
    "The error that `core` raises; the two plugins raise the same. For chat it is the error of the LangChain class; "
    "that of the LlamaIndex class has the same words."
)
