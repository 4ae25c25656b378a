"""Pages of PDF files, with pypdfium2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from nanogpt_core.cli.reading.text_files import BadTextError


def read_pdf(file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Yield each page that is not empty: its number, counted from 1, and its text. A scan has an empty text.

    Raises:
        BadTextError: The file is not a PDF, needs a password, or has a damaged page.
    """
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(file)
    except pypdfium2.PdfiumError as error:
        reason = "needs a password" if "password" in str(error).lower() else "is not a PDF that can be read"
        raise BadTextError(reason) from None
    with document:
        for number in range(len(document)):
            try:
                page = document[number]
                text_page = page.get_textpage()
            except pypdfium2.PdfiumError:
                raise BadTextError(f"page {number + 1} is damaged") from None
            # PDF marks the end of a line with CR LF, and a hyphen at it with U+FFFE or U+0002.
            text = text_page.get_text_bounded().replace("\r\n", "\n").replace("\r", "\n")
            has_pictures = any(page.get_objects([pypdfium2.raw.FPDF_PAGEOBJ_IMAGE]))
            text_page.close()
            page.close()
            for mark in ("\ufffe", "\x02"):
                text = text.replace(f"{mark}\n", "").replace(mark, "")
            if has_pictures or text.strip():
                yield number + 1, text
