"""The part of JSON Schema that frameworks write for structured output: types, required fields, and lists of values.

Pydantic validates output for its own classes. Output for a schema that is a dictionary or a ``TypedDict`` is a
dictionary that no framework looks into.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from nanogpt_core.http.error_body import excerpt

_IS_OF_TYPE: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: type(value) is int or (isinstance(value, float) and value.is_integer()),
    "number": lambda value: type(value) in (int, float),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
}


def schema_violation(value: Any, schema: Any, place: str = "") -> str | None:
    """Return how a JSON document breaks a schema, in words; None if it does not, as far as the keywords here tell.

    A field that is not required may be null: schemas that are made from classes do not say so. So may one whose list of
    types has null, even if its enum has not, and one that is ``nullable``, as in OpenAPI.
    """
    if not isinstance(schema, dict):
        return None
    kind = schema.get("type")
    names = kind if isinstance(kind, list) else [kind]
    if value is None and (schema.get("nullable") is True or "null" in names):
        return None
    checks = [_IS_OF_TYPE[name] for name in names if isinstance(name, str) and name in _IS_OF_TYPE]
    if checks and not any(is_of_type(value) for is_of_type in checks):
        return f"{place or 'it'} is {excerpt(json.dumps(value))}, and not of type {kind}"
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        return f"{place or 'it'} is {excerpt(json.dumps(value))}, and none of {excerpt(json.dumps(schema['enum']))}"
    inner = []
    if isinstance(value, dict):
        required = schema["required"] if isinstance(schema.get("required"), list) else []
        properties = schema["properties"] if isinstance(schema.get("properties"), dict) else {}
        missing = next((name for name in required if name not in value), None)
        if missing is not None:
            return f"{_join(place, missing)} is missing"
        given = {name: one for name, one in value.items() if one is not None or name in required}
        inner = [(one, properties.get(name), _join(place, name)) for name, one in given.items()]
    elif isinstance(value, list):
        inner = [(one, schema.get("items"), f"{place}[{position}]") for position, one in enumerate(value)]
    return next(filter(None, (schema_violation(*one) for one in inner)), None)


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
