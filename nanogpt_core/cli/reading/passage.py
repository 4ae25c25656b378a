"""Passages, and problems of the input with their places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

NO_TEXT = "holds no text"
"""The reason against a file without a passage."""


class Passage(NamedTuple):
    """A text to embed, and its place. A tuple, since a frozen dataclass takes three times as long to make.

    Attributes:
        source: The file, as it was given; ``<stdin>`` for standard input.
        number: Number of the passage in its source, counted from 1; for a record, the number of the record.
        part: Number of the part of a record that was divided, counted from 1; else 0.
        line: Line of the file in which the text begins, counted from 1; None if the format has no lines.
        page: Page, counted from 1; None if the format has no pages.
        key: Value of the record's ID field, or None.
        metadata: JSON of the fields that are kept, or None.
    """

    text: str
    source: str
    number: int
    part: int = 0
    line: int | None = None
    page: int | None = None
    key: str | None = None
    metadata: str | None = None

    @property
    def id(self) -> str:
        """The ID of the row: that of the record, or source and number. Parts have their number after it."""
        first = f"{self.source}#{self.number}" if self.key is None else self.key
        return f"{first}.{self.part}" if self.part else first

    @property
    def place(self) -> str:
        """The place, for messages: ``guide.md:12``, ``paper.pdf page 3``, or ``page.html#2`` for the second passage."""
        if self.page is not None:
            return f"{self.source} page {self.page}"
        return f"{self.source}#{self.number}" if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """A part of the input that cannot be embedded: the file, with line, page or record if known, and the reason."""

    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"
