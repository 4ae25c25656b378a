"""End a script with an error message instead of a traceback."""

from __future__ import annotations

import contextlib
import pickle
import sqlite3
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from openai import OpenAIError

from nanogpt_core import NanoGPTError


@contextlib.contextmanager
def name_damaged(place: Path) -> Iterator[None]:
    """Turn the errors of parsers into a ``ValueError`` that names the damaged file or folder."""
    try:
        yield
    # JSON, pickles and archives that parse, but have other contents than expected, raise these.
    except (AttributeError, ImportError, LookupError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{place} is not what was written there: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def report_index_damage(folder: Path) -> Iterator[None]:
    """End the program with a message if the index cannot be opened or filled."""
    try:
        yield
    except (NanoGPTError, OpenAIError):
        raise  # some of them are ValueErrors
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        pickle.UnpicklingError,
        *_database_errors(),
    ) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        sys.exit(
            f"error: The index in the folder {folder} is damaged or cannot be written ({reason}). Delete the "
            "pipeline's own folder in it (langchain, llama_index or openai_sdk), or name another folder with --data "
            "(with make: DATA=...)."
        )


def _database_errors() -> list[type[Exception]]:
    sqlalchemy = sys.modules.get("sqlalchemy.exc")  # used by LangChain's record manager
    return [sqlite3.Error, *([sqlalchemy.SQLAlchemyError] if sqlalchemy else [])]


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """End the program with a message instead of a traceback."""
    try:
        yield
    except (NanoGPTError, OpenAIError) as error:  # OpenAIError: from the pipeline on the bare SDK
        sys.exit(f"error: {error}")
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise
        sys.exit(f"error: {error} Or name another folder with --data (with make: DATA=...).")
    except KeyboardInterrupt:
        sys.exit(130)
