"""OpenTelemetry: one span for each call, and metrics, by the semantic conventions for generative AI.

Nothing here imports OpenTelemetry. A program that records spans or metrics has imported its API before: if that is not
the case, a call costs a look into ``sys.modules``. Decisions: docs/adr/0085-spans-and-metrics.md.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from nanogpt_core._runtime import clock
from nanogpt_core._runtime.extras import package_version
from nanogpt_core.observability.records import Kind, RequestRecord
from nanogpt_core.observability.usage import Usage, UsageMeter

PROVIDER = "nanogpt"
"""``gen_ai.provider.name``: the conventions have no name for NanoGPT, and allow others."""

_SCOPE = "nanogpt_core"
_SCHEMA = "https://opentelemetry.io/schemas/1.37.0"  # the version of the conventions
_DISABLED = "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS"
_NAME = "nanogpt"  # in the list of that variable
_PORTS = {"https": 443, "http": 80}

# The conventions' own boundaries of the histograms.
_SECONDS = [0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92]
_TOKENS = [1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864]

# A current span with one of these attributes is about the same call, made by an instrumentation of the SDK or of the
# framework: the conventions', OpenInference's, and OpenLLMetry's older one.
_SAME_CALL = {
    "chat": (
        ("gen_ai.operation.name", ("chat", "text_completion")),
        ("openinference.span.kind", ("LLM",)),
        ("llm.request.type", ("chat", "completion")),
    ),
    "embeddings": (
        ("gen_ai.operation.name", ("embeddings",)),
        ("openinference.span.kind", ("EMBEDDING",)),
        ("llm.request.type", ("embedding",)),
    ),
}
# Parameters of a request, and their attributes.
_FLOATS = ("frequency_penalty", "presence_penalty", "temperature", "top_p")
_PARAMETERS = {
    **{name: f"gen_ai.request.{name}" for name in _FLOATS},
    **dict.fromkeys(("max_tokens", "max_completion_tokens"), "gen_ai.request.max_tokens"),
    "n": "gen_ai.request.choice.count",
    "response_format": "gen_ai.output.type",
    "seed": "gen_ai.request.seed",
    "stream": "gen_ai.request.stream",
}
_LEFT_OUT = {"n": 1, "stream": False}  # by the conventions
_VERSION = package_version()  # read now, and not on an event loop at the first call
_SUPPRESSED = "suppress_language_model_instrumentation"  # OpenLLMetry's key in a context


def begin(kind: Kind, model: str, base_url: str, parameters: Mapping[str, Any]) -> CallTelemetry | None:
    """Begin the span of a call, and the measurement of its duration.

    ``parameters`` are those of the request, by their names.
    Return None if nothing is recorded: OpenTelemetry is not in use, this instrumentation is switched off, or the
    current span is about the same call.
    """
    trace, metrics = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.metrics")
    if _is_disabled() or (trace is not None and _is_recorded_already(trace, kind)):
        return None
    tracer = None if trace is None else _tracer(trace)
    instruments = None if metrics is None else _instruments_of(metrics.get_meter_provider())
    if tracer is None and instruments is None:
        return None
    attributes = {
        "gen_ai.operation.name": kind,
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model,
        **_server(base_url),
    }
    span = None
    if trace is not None and tracer is not None:
        more = {**attributes, **_request_attributes(parameters)}
        span = tracer.start_span(f"{kind} {model}", kind=trace.SpanKind.CLIENT, attributes=more)
    return CallTelemetry(trace, span, instruments, attributes)


class CallTelemetry:
    """The span and the measurements of one call."""

    def __init__(self, trace: Any, span: Any, instruments: tuple[Any, Any] | None, attributes: dict[str, Any]) -> None:
        self._trace, self._span, self._instruments, self._attributes = trace, span, instruments, attributes
        self._started = clock.now()
        self._meter = UsageMeter()

    def add(self, record: RequestRecord) -> None:
        """Count a record of the call."""
        self._meter.add(record)

    def current(self) -> contextlib.AbstractContextManager[Any]:
        """Return a context in which the span is the current one, so that spans of HTTP requests become its children."""
        if self._span is None:
            return contextlib.nullcontext()
        manager: contextlib.AbstractContextManager[Any] = self._trace.use_span(
            self._span, record_exception=False, set_status_on_exception=False
        )
        return manager

    def end(self, error: str | None, dimensions: int | None, model: str, finish_reasons: Sequence[str]) -> None:
        """End the span, and record the measurements.

        ``error`` is the name of the error's class, ``model`` the one that the answer names; empty if it names none.
        """
        usage, is_chat = self._meter.snapshot(), self._attributes["gen_ai.operation.name"] == "chat"
        is_answered = usage.requests > 0 or usage.texts_sent > 0  # a call that shares a request may count none
        if usage.uncertain and not is_answered:
            usage = replace(usage, prompt_tokens=None, completion_tokens=None, cost_usd=None)
        tokens = {"input": usage.prompt_tokens, **({"output": usage.completion_tokens} if is_chat else {})}
        failed = {} if error is None else {"error.type": error}
        if self._span is not None:
            counts = {f"gen_ai.usage.{name}_tokens": count for name, count in tokens.items()}
            more = {
                "gen_ai.embeddings.dimension.count": dimensions,
                "gen_ai.response.model": model or None,
                "gen_ai.response.finish_reasons": finish_reasons or None,
                **counts,
                **_own_attributes(usage, is_chat),
            }
            known = {name: value for name, value in more.items() if value is not None}
            self._span.set_attributes({**failed, **known})
            if failed:
                # Without a description: a message may repeat the key or a text.
                self._span.set_status(self._trace.StatusCode.ERROR)
            self._span.end()
        if self._instruments is not None:
            durations, token_counts = self._instruments
            durations.record(clock.now() - self._started, {**self._attributes, **failed})
            for name, count in tokens.items():
                if count is not None and is_answered:
                    token_counts.record(count, {**self._attributes, "gen_ai.token.type": name})


def _request_attributes(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        attribute: float(parameters[name]) if name in _FLOATS else parameters[name]
        for name, attribute in _PARAMETERS.items()
        if name in parameters and parameters[name] != _LEFT_OUT.get(name)
    }


def _own_attributes(usage: Usage, is_chat: bool) -> dict[str, Any]:
    names = ["cost_usd", "requests", "retries", "uncertain", *([] if is_chat else ["texts_sent", "texts_cached"])]
    return {f"{PROVIDER}.usage.{name}": getattr(usage, name) for name in names}


def _is_recorded_already(trace: Any, kind: Kind) -> bool:
    context = sys.modules.get("opentelemetry.context")
    if context is not None and context.get_value(_SUPPRESSED):
        return True
    utils = sys.modules.get("opentelemetry.instrumentation.utils")
    if utils is not None and not utils.is_instrumentation_enabled():
        return True
    # Spans of the API have no attributes that can be read; those of the SDK have.
    attributes = getattr(trace.get_current_span(), "attributes", None) or {}
    return any(attributes.get(name) in values for name, values in _SAME_CALL[kind])


@functools.cache
def _is_disabled() -> bool:
    names = os.environ.get(_DISABLED, "").split(",")
    return bool({name.strip() for name in names} & {_NAME, "*"})


@functools.lru_cache(maxsize=64)
def _server(base_url: str) -> dict[str, Any]:
    parts = urlsplit(base_url)
    return {"server.address": parts.hostname or "", "server.port": parts.port or _PORTS.get(parts.scheme, 443)}


def _tracer(trace: Any) -> Any:
    """Return a tracer, or None if the program has set up no tracing."""
    provider = trace.get_tracer_provider()
    return None if isinstance(provider, trace.ProxyTracerProvider) else _tracer_of(provider)


@functools.lru_cache(maxsize=1)
def _tracer_of(provider: Any) -> Any:
    return provider.get_tracer(_SCOPE, _VERSION, _SCHEMA)


@functools.lru_cache(maxsize=1)
def _instruments_of(provider: Any) -> tuple[Any, Any]:
    """Return the histograms of durations and of tokens. If the program has set up no metrics, they do nothing."""
    meter = provider.get_meter(_SCOPE, _VERSION, _SCHEMA)
    durations = meter.create_histogram(
        "gen_ai.client.operation.duration",
        unit="s",
        description="GenAI operation duration.",
        explicit_bucket_boundaries_advisory=_SECONDS,
    )
    tokens = meter.create_histogram(
        "gen_ai.client.token.usage",
        unit="{token}",
        description="Number of input and output tokens used.",
        explicit_bucket_boundaries_advisory=_TOKENS,
    )
    return durations, tokens
