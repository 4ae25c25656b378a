"""Corpus of the demo: the documentation that every Python interpreter includes.

It has two parts: the language reference (``pydoc_data.topics``) and the docstrings of the standard library. Docstrings
of Python code are read from the source files with ``ast``, because an import may open a window or a browser. Modules
written in C have no source file; a short list of harmless ones is imported.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import platform
import re
import sys
import sysconfig
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from types import ModuleType

LEAST_MAX_CHARS = 200
"""Lowest ``max_chars``, in characters: room for a name and a few words of text."""

LEAST_CHARS = 30
"""Shortest docstring, in characters; shorter ones only repeat the name."""

# Topics that contain other topics. Only their paragraphs that are in no other topic are used.
_UMBRELLAS = ("typesseq", "execmodel", "compound", "specialnames")
_TWINS = {"else"}  # the same text as topic "if"

# fmt: off
_IMPORTED = [
    "builtins", "array", "atexit", "binascii", "cmath", "collections", "contextvars", "csv", "datetime", "decimal",
    "functools", "gc", "io", "itertools", "math", "operator", "os", "random", "re", "struct", "sys", "time",
    "unicodedata", "weakref", "zlib",
]
_SKIPPED = {
    "antigravity", "this", "ensurepip", "encodings", "idlelib", "lib2to3", "pydoc_data", "turtledemo", "turtle",
    "tkinter", "distutils", "msilib", "ntpath", "nturl2path", "sre_compile", "sre_constants", "sre_parse",
}
# fmt: on
_SKIPPED_PARTS = {"test", "tests", "idle_test", "__main__", "macholib"}

# Modules with another public name than their file's.
_PUBLIC_NAMES = {
    "_collections_abc": "collections.abc",
    "asyncio": "asyncio",
    "genericpath": "os.path",
    "posixpath": "os.path",
}

# Places to cut a long text, best first. Each pattern matches the empty string before the border.
_BORDERS = (
    r"(?=\n[^\S\n]*\n\S)",  # a blank line, then a line that is not indented
    r"(?=\n[^\S\n]*\n)",  # any blank line
    r"(?=\n)",
    r"(?= )",
)


@dataclass(frozen=True)
class Passage:
    """A text that can be understood without its neighbours.

    Attributes:
        text: The text, beginning with the name of its subject.
        source: Its origin: ``"functools.lru_cache"``, or ``"topic: try (part 2)"`` for a part of a long text.
    """

    text: str
    source: str


def load_passages(max_chars: int = 1200) -> list[Passage]:
    """Return the documentation of this interpreter, in the same order each time and without repeats.

    Args:
        max_chars: Maximum length of a passage's text in characters, at least 200. Longer texts are cut, if possible
            between paragraphs.

    Raises:
        ValueError: If ``max_chars`` is below 200.
    """
    if max_chars < LEAST_MAX_CHARS:
        raise ValueError(f"max_chars must be at least {LEAST_MAX_CHARS}, got {max_chars}")
    return [passage for document in load_documents() for passage in cut(document, max_chars)]


def load_documents(folder: Path | None = None) -> list[Passage]:
    """Return the same documentation for other splitters: one uncut text per source, without the name in it.

    Args:
        folder: Folder for a file that keeps the documents for the next run, because reading them takes seconds; None
            for no file. It is named after the version of Python, and written anew if it cannot be read.
    """
    if folder is None:
        return [Passage(body, name) for name, body in _documents().items()]
    file = folder / f"documents-{platform.python_implementation()}-{platform.python_version()}.json"
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        return [Passage(text=str(text), source=str(source)) for text, source in kept]
    except (OSError, ValueError, TypeError):
        documents = load_documents()
    folder.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}.part")
    part.write_text(json.dumps([(one.text, one.source) for one in documents]), encoding="utf-8")
    part.replace(file)
    return documents


def _documents() -> dict[str, str]:
    documents: dict[str, str] = {}
    for name, text in (*_topics(), *_imported_docstrings(), *_parsed_docstrings()):
        body = inspect.cleandoc(text).encode("utf-8", "replace").decode()  # "replace": lone surrogates
        if len(body) >= LEAST_CHARS:
            documents.setdefault(name, body)
    return documents


def cut(document: Passage, max_chars: int) -> Iterator[Passage]:
    """Yield a document in passages of at most ``max_chars`` characters, each preceded by the document's name."""
    name = document.source
    pieces = _split(document.text, max_chars - len(name) - 2)
    bodies = dict.fromkeys(textwrap.dedent(piece.strip("\n")).strip() for piece in pieces)
    bodies.pop("", None)
    for number, text in enumerate(bodies, start=1):
        source = name if len(bodies) == 1 else f"{name} (part {number})"
        yield Passage(f"{name}: {text}", source)


def _split(text: str, room: int, borders: tuple[str, ...] = _BORDERS) -> list[str]:
    """Cut ``text`` into pieces of at most ``room`` characters, at the best borders that allow it."""
    if len(text) <= room:
        return [text]
    if not borders:
        return [text[start : start + room] for start in range(0, len(text), room)]
    pieces = [""]
    for block in re.split(borders[0], text):
        for piece in _split(block, room, borders[1:]):
            if len(pieces[-1]) + len(piece) <= room:
                pieces[-1] += piece
            else:
                pieces.append(piece)
    return pieces


def _topics() -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for name in (*sorted(topics.keys() - _TWINS - set(_UMBRELLAS)), *(u for u in _UMBRELLAS if u in topics)):
        paragraphs = re.split(_BORDERS[1], topics[name])
        keys = [re.sub(r"\W+", " ", paragraph).strip() for paragraph in paragraphs]  # headings differ in underlines
        if name in _UMBRELLAS:
            paragraphs = [text for text, key in zip(paragraphs, keys, strict=True) if key not in seen]
        seen.update(keys)
        yield f"topic: {name}", "".join(paragraphs)


def _imported_docstrings() -> Iterator[tuple[str, str]]:
    for module_name in _IMPORTED:
        module = importlib.import_module(module_name)
        yield module_name, inspect.getdoc(module) or ""
        prefix = "" if module_name == "builtins" else f"{module_name}."
        for name, member in _public_members(module):
            yield from _object_docstrings(prefix + name, member)


def _public_members(module: ModuleType) -> Iterator[tuple[str, object]]:
    members = vars(module)
    for name in sorted(getattr(module, "__all__", members)):
        # Hooks of sys may be replaced; the original is kept as "__excepthook__".
        member = members.get(f"__{name}__") or members.get(name)
        if not name.startswith("_") and (inspect.isbuiltin(member) or inspect.isclass(member)):
            yield name, member


def _object_docstrings(name: str, member: object) -> Iterator[tuple[str, str]]:
    yield name, inspect.getdoc(member) or ""
    if not inspect.isclass(member):
        return
    for key, value in sorted(vars(member).items()):
        if not key.startswith("_") and (inspect.isroutine(value) or inspect.isdatadescriptor(value)):
            yield f"{name}.{key}", value.__doc__ or ""


def _parsed_docstrings() -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old modules hold invalid escapes
        for name, path in _source_files():
            tree = ast.parse(path.read_bytes())
            yield name, ast.get_docstring(tree) or ""
            yield from _node_docstrings(name, tree.body)


def _source_files() -> Iterator[tuple[str, Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    for top in sorted(sys.stdlib_module_names - _SKIPPED):
        if top.startswith("_") and top not in _PUBLIC_NAMES:
            continue
        for path in (root / f"{top}.py", *sorted((root / top).rglob("*.py"))):
            parts = path.relative_to(root).with_suffix("").parts
            if path.is_file() and not _SKIPPED_PARTS.intersection(parts):
                # "concurrent.futures._base" is known as "concurrent.futures"
                yield _PUBLIC_NAMES.get(top) or ".".join(p for p in parts if not p.startswith("_")), path


def _node_docstrings(prefix: str, body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from _node_docstrings(prefix, [*node.body, *node.orelse])
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield f"{prefix}.{node.name}", ast.get_docstring(node) or ""
            if isinstance(node, ast.ClassDef):
                yield from _node_docstrings(f"{prefix}.{node.name}", node.body)
