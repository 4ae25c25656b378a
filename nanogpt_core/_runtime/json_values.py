"""Parses JSON that other programs have written."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import orjson


def parse_json(text: bytes | str) -> Any:
    """Return the value of JSON. NaN and infinity, which Python's own writer writes for missing numbers, become None.

    Raises:
        orjson.JSONDecodeError: It is not JSON.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        # Python's parser also takes UTF-16, and values that cannot be written again, such as half a character.
        with contextlib.suppress(ValueError, TypeError, RecursionError):
            return orjson.loads(orjson.dumps(json.loads(text if isinstance(text, str) else text.decode())))
        raise
