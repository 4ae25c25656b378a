"""The sandbox's options, and the models and limits that follow from them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from nanogpt_core._runtime.validation import check_bool, check_not_negative, check_number, check_positive, is_header
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.models.catalog import MAX_ITEMS, MODELS, ModelInfo, get_model
from nanogpt_core.sandbox.script import Fault, Reply, check_faults, check_type

DEFAULT_API_KEY = "sk-nano-sandbox"
"""The key that the sandbox accepts by default; worthless elsewhere."""

NEWER_MODEL = ModelInfo(
    id="sandbox-embedding-new",
    dimensions=1024,
    min_dimensions=32,
    max_dimensions=1024,
    max_tokens=8192,
    languages=("multilingual",),
    unit_length=True,
    source="sandbox",
)
"""A model that is only in the live list, not in the catalog: for tests of clients with such models."""

_RERANKER = "BAAI/bge-reranker-large"  # NanoGPT lists it among the embedding models
_DEFAULT_WIDTH = 1024
_MAX_PORT = 65_535
# Hosts of resold models accept fewer items than NanoGPT's 2048; the longest matching prefix of a model's name counts.
_VENDOR_ITEMS = {
    "BAAI/": 64,
    "netease-youdao/": 64,
    "Qwen/": 64,
    "Baichuan": 16,
    "zhipu-": 16,
    "jina-embeddings-v4": 512,
    "gemini-embedding": 100,
}


@dataclass(slots=True)  # an attribute that does not exist cannot be set
class SandboxConfig:
    """The options of a sandbox.

    Attributes:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        allow_remote: Allow a ``host`` that other machines can reach.
        api_key: The key that requests must carry.
        latency: Minimum duration of every request, in seconds.
        requests_per_second: Requests over this rate get 429; None: no limit. 0.5 is one request in two seconds.
        requests_per_day: Requests over this number in a day (UTC) get 429 until midnight; None: no limit.
        reference_page: Behave as NanoGPT's reference page says: its sixteen models, with its dimensions, 2048 texts in
            a request, and its error object for an unknown model (400) and over the rate limit (429). By default the
            sandbox follows the newer documentation.
        report_cost: Give the cost in embedding and chat replies, as ``x_nanogpt_pricing``.
        refuse_base64: Answer 400 to ``encoding_format="base64"``, as some hosts do.
        ignore_base64: Answer floats whatever ``encoding_format`` says, as some hosts do.
        shuffle: Return embeddings out of order, with the right ``index``.
        vendor_limits: Apply the item limits of resold models (64, 16) below the general 2048. Default: unless
            ``reference_page`` is set.
        item_limits: Item limits of single models by name, before any other rule.
        models: Embedding models to add, or to replace by name.
        width_source: Source of the vectors' dimensions: the model cards (``"true"``) or NanoGPT's reference page
            (``"listed"``).
        faults: Used in order, one for each embeddings or chat request with the right key; None is a normal answer.
        script: Replies to chat requests in place of quotes. Each is used once, in order, for the first request that
            matches its ``model`` and ``when``; a fault matches any request. Other requests get quotes.
        context_lengths: Chat models to list beside the sandbox's own, with their context lengths in tokens.
        keep_requests: Maximum number of requests to keep in the log.
        keep_bytes: Maximum number of bytes of request bodies to keep in the log.
    """

    host: str = "127.0.0.1"
    port: int = 0
    allow_remote: bool = False
    api_key: str = DEFAULT_API_KEY
    latency: float = 0.0
    requests_per_second: float | None = None
    requests_per_day: int | None = None
    reference_page: bool = False
    report_cost: bool = False
    refuse_base64: bool = False
    ignore_base64: bool = False
    shuffle: bool = False
    vendor_limits: bool | None = None
    item_limits: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, ModelInfo] = field(default_factory=dict)
    width_source: Literal["true", "listed"] = "true"
    faults: Iterable[Fault | None] = ()
    script: Iterable[Reply | Fault] = ()
    context_lengths: Mapping[str, int] = field(default_factory=dict)
    keep_requests: int = 10_000
    keep_bytes: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if not self.allow_remote and not _is_loopback(self.host):
            raise ConfigurationError(
                f"host {self.host!r} can be reached from other machines, and the sandbox has no protection.",
                remedy="Use 127.0.0.1, or pass allow_remote=True (--allow-remote).",
            )

    def __setattr__(self, name: str, value: object) -> None:
        if name in _FIXED and hasattr(self, name):
            remedy = _REMEDIES.get(name, "Start another sandbox.")
            raise ConfigurationError(f"{name} cannot be changed after construction.", remedy=remedy)
        if name in _CHECKS:
            _CHECKS[name](name, value)
        object.__setattr__(self, name, value)

    def all_models(self) -> dict[str, ModelInfo]:
        """Return every embedding model that the sandbox serves, by name."""
        if self.reference_page:
            return {**{name: info for name, info in MODELS.items() if info.on_reference_page}, **self.models}
        others = (get_model(_RERANKER), NEWER_MODEL)
        return {**MODELS, **{info.id: info for info in others}, **self.models}

    def width(self, info: ModelInfo) -> int:
        """Return the dimensions of a full vector of the model."""
        if (self.reference_page or self.width_source == "listed") and info.listed_dimensions is not None:
            return info.listed_dimensions
        return info.dimensions or _DEFAULT_WIDTH

    def max_items(self, model: str) -> int:
        """Return the limit on the texts in one request to the model."""
        if model in self.item_limits:
            return self.item_limits[model]
        vendor_limits = not self.reference_page if self.vendor_limits is None else self.vendor_limits
        prefixes = [prefix for prefix in _VENDOR_ITEMS if model.startswith(prefix)] if vendor_limits else []
        return _VENDOR_ITEMS[max(prefixes, key=len)] if prefixes else MAX_ITEMS


def _check_key(name: str, value: Any) -> None:
    check_type(name, value, str)
    if not value or not is_header("Authorization", value):
        raise ConfigurationError(f"{name} is empty, or has characters that no header can hold.")


def _check_numbers(name: str, value: Any) -> None:
    check_type(name, value, Mapping)
    for model, number in value.items():
        check_type(f"A name in {name}", model, str)
        check_number(f"{name}[{model!r}]", number, 1)


def _check_models(name: str, value: Any) -> None:
    check_type(name, value, Mapping)
    for model, info in value.items():
        check_type(f"A name in {name}", model, str)
        check_type(f"{name}[{model!r}]", info, ModelInfo)


def _check_width_source(name: str, value: Any) -> None:
    if value not in ("true", "listed"):
        raise ConfigurationError(f'{name} is {value!r}; it must be "true" or "listed".')


def _unless_none(check: Callable[[str, Any], object]) -> Callable[[str, Any], object]:
    return lambda name, value: None if value is None else check(name, value)


def _check_script(name: str, value: Any) -> None:
    check_type(name, value, Iterable)
    if isinstance(value, (str, Mapping)):
        raise InvalidTypeError(f"{name} must be a list of replies, not {type(value).__name__}.")


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "host": partial(check_type, kind=str),  # an empty one is every address of the machine
    "port": partial(check_number, least=0, most=_MAX_PORT),
    "api_key": _check_key,
    "latency": check_not_negative,
    "requests_per_second": check_positive,
    "requests_per_day": _unless_none(partial(check_number, least=1)),
    "vendor_limits": _unless_none(check_bool),
    "item_limits": _check_numbers,
    "models": _check_models,
    "width_source": _check_width_source,
    "faults": check_faults,
    "script": _check_script,
    "context_lengths": _check_numbers,
    **dict.fromkeys(("keep_requests", "keep_bytes"), partial(check_number, least=0)),
    **dict.fromkeys(
        ("allow_remote", "reference_page", "report_cost", "refuse_base64", "ignore_base64", "shuffle"), check_bool
    ),
}

# The server reads them once.
_REMEDIES = {"faults": "Call add_faults().", "script": "Call add_replies()."}
_FIXED = frozenset(
    ("host", "port", "allow_remote", "requests_per_second", "requests_per_day", "keep_requests", "keep_bytes")
).union(_REMEDIES)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
