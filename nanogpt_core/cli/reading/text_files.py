"""Text files: decoding with the place of errors, plain text in parts, and HTML without its tags."""

from __future__ import annotations

import codecs
import contextlib
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import BinaryIO, cast

from nanogpt_core.cli.exit_codes import CommandError

MAX_CHARACTERS = 64 << 20
"""Largest text that is read as one piece: a line, a record or an HTML page."""

_SEGMENT_CHARACTERS = 1 << 20  # a long text is divided between paragraphs after so many
_SNIFFED_BYTES = 8192
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before that of UTF-16, with which it begins
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED_ENCODING = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)
# Bytes that are not in the encoding are decoded to the others of these characters, and so can be found with their line.
_NOT_TEXT = re.compile("[\0\udc80-\udcff]")


class BadTextError(Exception):
    """A text cannot be read: the reason, in a few words, and the line, counted from 1, or None."""

    def __init__(self, reason: str, line: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line


def check_encoding(encoding: str) -> str:
    """Return ``encoding`` if Python knows it.

    Raises:
        CommandError: It does not.
    """
    try:
        codecs.lookup(encoding)
        # Some of Python's codecs are none of text, such as base64, or have no way to go on after a wrong byte.
        io.TextIOWrapper(io.BytesIO(), encoding, errors="surrogateescape").read()
    except (LookupError, ValueError):
        raise CommandError(f"--encoding: {encoding!r} is unknown.", remedy="Use utf-8, cp1252 or latin-1.") from None
    return encoding


@contextlib.contextmanager
def open_text(file: BinaryIO, encoding: str, *, newline: str | None = None) -> Iterator[io.TextIOWrapper]:
    """Yield a text stream over ``file``. Bytes that cannot be decoded are kept for :func:`find_bad_byte`.

    Raises:
        BadTextError: The file is not a text.
    """
    reader = file if isinstance(file, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", file))
    start = reader.peek(_SNIFFED_BYTES)[:_SNIFFED_BYTES]
    marked = next((name for bom, name in _BOMS if start.startswith(bom)), None)
    wide = marked or codecs.lookup(encoding).name.startswith(("utf-16", "utf-32"))
    if b"\0" in start and not wide:
        raise BadTextError("is a binary file")
    if codecs.lookup(encoding).name == "utf-8":
        encoding = marked or "utf-8-sig"
    stream = io.TextIOWrapper(reader, encoding, errors="surrogateescape", newline=newline)
    try:
        yield stream
    finally:
        stream.detach()  # the file is closed by its owner


def find_bad_byte(text: str, encoding: str) -> tuple[int, str] | None:
    """Return the line breaks before the first byte that was not decoded or is NUL, and the problem; or None."""
    found = None if text.isascii() and "\0" not in text else _NOT_TEXT.search(text)
    if found is None:
        return None
    byte = ord(found[0]) & 0xFF
    problem = f"is not {encoding} (byte 0x{byte:02x}); see --encoding" if byte else "has a NUL byte, which is no text"
    return text.count("\n", 0, found.start()), problem


def segments(file: BinaryIO, encoding: str) -> Iterator[tuple[int, str]]:
    """Yield the text in parts of about 1 MiB that end after a blank line, each with the number of its first line.

    Raises:
        BadTextError: A byte cannot be decoded, or a line is too long.
    """
    first, line, size = 1, 0, 0
    lines: list[str] = []
    with open_text(file, encoding) as stream:
        while text := readline(stream, line):
            line += 1
            lines.append(text)
            size += len(text)
            if size >= _SEGMENT_CHARACTERS and (text.isspace() or size >= 2 * _SEGMENT_CHARACTERS):
                yield first, _checked("".join(lines), first, encoding)
                first, lines, size = line + 1, [], 0
    if lines:
        yield first, _checked("".join(lines), first, encoding)


def read_whole(file: BinaryIO, encoding: str) -> str:
    """Return the whole text.

    Raises:
        BadTextError: A byte cannot be decoded, or the text is too long.
    """
    with open_text(file, encoding) as stream:
        try:
            text = stream.read(MAX_CHARACTERS + 1)
        except UnicodeError as error:
            raise BadTextError(f"is not {encoding}: {getattr(error, 'reason', error)}") from None
    if len(text) > MAX_CHARACTERS:
        raise BadTextError(f"has more than {MAX_CHARACTERS:,} characters")
    return _checked(text, 1, encoding)


def read_html(file: BinaryIO, encoding: str) -> str:
    """Return the text of an HTML page. If it is not in ``encoding``, it is read in the encoding that it declares.

    Raises:
        BadTextError: It is in neither, or too large, or no HTML.
    """
    page = file.read(MAX_CHARACTERS + 1)
    if len(page) > MAX_CHARACTERS:
        raise BadTextError("is larger than 64 MiB")
    try:
        text = read_whole(io.BytesIO(page), encoding)
    except BadTextError:
        declared = _declared_encoding(page)
        if declared is None:
            raise
        text = read_whole(io.BytesIO(page), declared)
    return html_to_text(text)


def _declared_encoding(page: bytes) -> str | None:
    found = _DECLARED_ENCODING.search(page, 0, _SNIFFED_BYTES)
    try:
        name = check_encoding(found[1].decode()) if found else None
    except CommandError:
        return None
    return "cp1252" if name and codecs.lookup(name).name == "iso8859-1" else name  # browsers read it so


def readline(stream: io.TextIOWrapper, line: int) -> str:
    """Return the next line of a stream of :func:`open_text`, with its end; empty after the last one.

    ``line`` is the number of lines before it, for messages.

    Raises:
        BadTextError: It cannot be decoded, or is too long.
    """
    try:
        text = stream.readline(MAX_CHARACTERS + 1)
    except UnicodeError as error:
        raise BadTextError(f"is not {stream.encoding}: {getattr(error, 'reason', error)}", line + 1) from None
    if len(text) > MAX_CHARACTERS:
        raise BadTextError(f"the line has more than {MAX_CHARACTERS:,} characters", line + 1)
    return text


def _checked(text: str, first_line: int, encoding: str) -> str:
    found = find_bad_byte(text, encoding)
    if found is not None:
        breaks, problem = found
        raise BadTextError(problem, first_line + breaks)
    return text


# Elements that begin a new line; each of the second group also begins a new paragraph.
_LINES = {"br", "dd", "dt", "li", "option", "tr"}
_PARAGRAPHS = {
    *("address", "article", "aside", "blockquote", "body", "details", "div", "dl", "fieldset", "figcaption", "figure"),
    *("footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "main", "nav", "ol", "p", "pre", "section"),
    *("table", "title", "ul"),
}
_WITHOUT_TEXT = {"script", "style", "template", "noscript", "svg", "iframe", "object"}


class _TextOfHTML(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden: list[str] = []
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._break(tag)
        if tag in _WITHOUT_TEXT:
            self._hidden.append(tag)
        self._preformatted += tag == "pre"
        if tag in {"td", "th"}:
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._hidden:
            while self._hidden.pop() != tag:
                pass
        self._preformatted -= tag == "pre" and self._preformatted > 0
        if tag in _PARAGRAPHS:
            self._break(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._break(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data if self._preformatted else re.sub(r"\s+", " ", data))

    def _break(self, tag: str) -> None:
        if tag in _PARAGRAPHS:
            self.parts.append("\n\n")
        elif tag in _LINES:
            self.parts.append("\n")


def html_to_text(html: str) -> str:
    """Return the text of an HTML page: paragraphs with blank lines between them, without scripts and styles.

    Raises:
        BadTextError: A declaration that the parser of Python does not take, such as ``<![x[``.
    """
    parser = _TextOfHTML()
    try:
        parser.feed(html)
        parser.close()
    except AssertionError as error:
        raise BadTextError(f"is not HTML ({error})", parser.getpos()[0]) from None
    # The lookbehinds keep the time linear: without them, a match would be tried at each blank of a long run.
    text = re.sub(r"(?<![^\S\n])[^\S\n]*\n[^\S\n]*\n\s*", "\n\n", "".join(parser.parts))
    return re.sub(r"(?<! ) *\n ?(?=\S)", "\n", text).strip()
