"""Checks of option values that embeddings, chat and the plugins share.

They raise an :class:`InvalidTypeError` for a value of the wrong type and an unknown name, and a
:class:`ConfigurationError` for any other value that is not accepted.
"""

from __future__ import annotations

import difflib
import inspect
import math
import os
import pickle
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from nanogpt_core.errors import ConfigurationError, InvalidTypeError

MIN_REQUESTS_PER_SECOND = 1e-4
"""Smallest ``requests_per_second``: a request in nearly three hours. The limiter's times overflow far below it."""

_LEAST_SIMILARITY = 0.75  # of names, by difflib: "dimension" is 0.6 like "api_version"
_MAX_SHOWN = 10**12  # larger numbers are not repeated in messages
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_ASCII_VALUE = re.compile(r"([!-~]([ \t!-~]*[!-~])?)?")
_LATIN_1_VALUE = re.compile(r"([!-~\x80-\xff]([ \t!-~\x80-\xff]*[!-~\x80-\xff])?)?")


def check_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return ``value`` if it is a whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidTypeError(
            f"{name} must be a whole number (int), not {type(value).__name__}.",
            remedy=_conversion(int, "__index__", name, value),
        )
    if value < least or (most is not None and value > most):
        span = f"from {least} to {most:,}" if most is not None else f"at least {least}"
        given = f"{value:,}" if abs(value) < _MAX_SHOWN else "a number of more than 12 digits"
        raise ConfigurationError(f"{name} must be {span}, not {given}.")
    return value


def check_positive(name: str, value: Any, *, at_least: float = 0.0) -> None:
    """Check that ``value`` is a positive, finite number of at least ``at_least``, or None."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise number_type_error(name, value)
    if value > sys.float_info.max:
        raise ConfigurationError(f"{name} must be finite; this number is too large.", remedy="Leave it out.")
    if not (value > 0 and math.isfinite(value)):
        raise ConfigurationError(f"{name} must be positive and finite, not {value!r}.")
    if value < at_least:
        raise ConfigurationError(f"{name} must be at least {at_least:g}, not {value!r}.")


def check_not_negative(name: str, value: Any) -> None:
    """Check that ``value`` is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise number_type_error(name, value)
    if not 0 <= value <= sys.float_info.max:
        raise ConfigurationError(f"{name} must be at least 0 and finite.")


def number_type_error(name: str, value: Any) -> InvalidTypeError:
    """Return the error for a value that is neither an int nor a float, with the conversion if there is one."""
    return InvalidTypeError(
        f"{name} must be a number (int or float), not {type(value).__name__}.",
        remedy=_conversion(float, "__float__", name, value),
    )


def _conversion(kind: type, method: str, name: str, value: Any) -> str:
    # Numbers of NumPy and Decimal have the method, words do not.
    return f"Pass {kind.__name__}({name})." if hasattr(value, method) and not isinstance(value, bool) else ""


def check_bool(name: str, value: Any) -> None:
    """Check that ``value`` is a bool: a word such as ``"false"`` would count as true."""
    if not isinstance(value, bool):
        kind = type(value)
        is_numpy = kind.__module__ == "numpy"  # its class is called bool too
        remedy = f"Pass bool({name})." if is_numpy else ""
        raise InvalidTypeError(
            f"{name} must be True or False, not {'numpy.' * is_numpy}{kind.__name__}.", remedy=remedy
        )


def check_model_name(model: Any, example: str = "text-embedding-3-small") -> str:
    """Return the model's name without surrounding blanks; an error shows the ``example``."""
    if not isinstance(model, str):
        raise InvalidTypeError(f"model must be a str, not {type(model).__name__}.")
    if not model.strip():
        raise ConfigurationError("model is empty.", remedy=f'Use one like "{example}".')
    check_encodes("model", model)
    return model.strip()


def check_list(name: str, values: Any, *kinds: type) -> list[Any]:
    """Return ``values`` as a list, after checking that it is an iterable of objects of one of the ``kinds``."""
    words = " or ".join(kind.__name__ for kind in kinds)
    if isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        raise InvalidTypeError(f"{name} must be a list of {words}, not {type(values).__name__}.")
    found = list(values)
    for position, value in enumerate(found):
        if not isinstance(value, kinds):
            raise InvalidTypeError(
                f"{name} must be a list of {words}; at position {position} is {type(value).__name__}."
            )
    return found


def check_encodes(name: str, value: str) -> None:
    """Check that ``value`` can be encoded as UTF-8."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigurationError(f"{name} contains an unpaired surrogate, which UTF-8 cannot encode.") from error


def check_str_or_none(name: str, value: Any) -> None:
    """Check that ``value`` is None, or a string that can be encoded as UTF-8."""
    if value is not None and not isinstance(value, str):
        raise InvalidTypeError(f"{name} must be a str or None, not {type(value).__name__}.")
    check_encodes(name, value or "")


def check_plain_function(name: str, function: Any, *arguments: str) -> None:
    """Check that a function that was passed as an option can be called with the ``arguments``, which are their names.

    A coroutine or generator function would not run then.
    """
    functions = (function, getattr(function, "__call__", None))  # noqa: B004
    if any(map(inspect.iscoroutinefunction, functions)):
        raise InvalidTypeError(
            f"{name} must be a plain function, not a coroutine function.",
            remedy="Put its arguments into a queue, and await there.",
        )
    if any(inspect.isgeneratorfunction(one) or inspect.isasyncgenfunction(one) for one in functions):
        raise InvalidTypeError(f"{name} must be a plain function, not a generator function.", remedy="Leave out yield.")
    try:
        # A wrapper may take others than the function that it wraps.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # None, or a function in C
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise InvalidTypeError(
            f"{name} is called with {' and '.join(arguments)}: {error}.", remedy="Pass a function that takes them."
        ) from error


def is_header(name: str, value: str, *, ascii_only: bool = True) -> bool:
    """Return True if an HTTP header may have this name and this value, in ASCII or in Latin-1, as some servers send."""
    values = _ASCII_VALUE if ascii_only else _LATIN_1_VALUE
    return bool(_HEADER_NAME.fullmatch(name) and values.fullmatch(value))


def check_path(name: str, path: Any) -> str:
    """Return a path as a str, without the class of a string enum, after checking that it can name a file."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InvalidTypeError(f"{name} must be a str or a Path, not {type(path).__name__}.")
    text = str.__str__(os.fspath(path))
    check_encodes(name, text)
    if not text or "\0" in text:
        raise ConfigurationError(f"{name} is empty or contains a null character.", remedy="Name a file.")
    return text


def check_can_be_pickled(**functions: Any) -> None:
    """Check that functions that were passed as options can be pickled, before a framework leaves them out silently."""
    for name, function in functions.items():
        try:
            pickle.dumps(function)
        except Exception as error:
            raise InvalidTypeError(
                f"An object with this {name} cannot be pickled.", remedy="Pass a function of a module, or None."
            ) from error


def check_http_client(name: str, client: Any, kind: str) -> None:
    """Check that ``client`` is None or a client of ``httpx`` or ``httpx2``, without importing either."""
    homes = {(base.__module__.partition(".")[0], base.__name__) for base in type(client).__mro__}
    if client is not None and not homes & {("httpx", kind), ("httpx2", kind)}:
        raise InvalidTypeError(f"{name} must be an httpx.{kind}, not {type(client).__name__}.")


def check_methods(name: str, value: Any, *methods: str) -> None:
    """Check that ``value`` is None or has the ``methods``."""
    if value is not None and not all(callable(getattr(value, method, None)) for method in methods):
        words = " and ".join(f"{method}()" for method in methods)
        raise InvalidTypeError(f"{name} must have {words}, not {type(value).__name__}.")


def check_option_names(given: Iterable[str], known: Collection[str], aliases: Mapping[str, str]) -> None:
    """Check that each given name is a known option; ``aliases`` are hints at others, by names that are not known."""
    for name in given:
        if name not in known:
            meant = _meant_name(name, known, aliases)
            raise InvalidTypeError(
                f"Unknown option {name!r}.",
                remedy=f"Did you mean {meant!r}?" if meant else f"The options are: {', '.join(known)}.",
            )


def fixed_option_error(name: str, name_in_copy: str | None = None) -> ConfigurationError:
    """Return the error for setting an option that has another value only in a new object, or in a copy."""
    copied = f'Use .model_copy(update={{"{name_in_copy}": ...}}).'
    return ConfigurationError(
        f"{name} cannot be changed after construction.", remedy=copied if name_in_copy else "Create a new object."
    )


def check_attribute(cls: type, name: str, options: Collection[str], aliases: Mapping[str, str]) -> None:
    """Check that objects of ``cls`` have an attribute ``name``, or an option of that name; ``aliases`` are hints."""
    if not (name.startswith("_") or name in options or hasattr(cls, name)):
        meant = _meant_name(name, [*options, *(one for one in dir(cls) if not one.startswith("_"))], aliases)
        raise AttributeError(
            f"{cls.__name__} has no attribute {name!r}.{f' Did you mean {meant!r}?' if meant else ''}", name=name
        )


def _meant_name(name: str, known: Collection[str], aliases: Mapping[str, str]) -> str | None:
    """Return the known name that was probably meant, also by one of the ``aliases``; None if there is none."""
    near = closest_name(name, [*known, *(alias for alias, option in aliases.items() if option in known)])
    return near if near is None or near in known else aliases[near]


def closest_name(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant: the same words in another order, a similar name, or common words.

    None if there is none: an unrelated name as a hint misleads.
    """
    names, words = sorted(known, key=lambda one: (len(one), one)), set(name.lower().split("_"))
    same = [one for one in names if set(one.split("_")) == words]
    similar = difflib.get_close_matches(name, names, n=1, cutoff=_LEAST_SIMILARITY)
    related = [one for one in names if words <= set(one.split("_")) or words >= set(one.split("_"))]
    return next(iter([*same, *similar, *related]), None)


def with_field_names(options: Mapping[str, Any], other_names: Mapping[str, str]) -> dict[str, Any]:
    """Return options by the names of their fields. None under one name gives way to a value under another.

    Two other values under names of one field are an error.
    """
    fields: dict[str, Any] = {}
    for given, value in options.items():
        name = other_names.get(given, given)
        if value is None:
            fields.setdefault(name, None)
        elif fields.get(name) is None or fields[name] == value:
            fields[name] = value
        else:
            names = " and ".join(sorted(one for one in options if other_names.get(one, one) == name))
            raise ConfigurationError(f"{names} are the same option, and differ.", remedy="Pass one of them.")
    return fields
