"""LangChain's chat model over NanoGPT, on ``langchain-openai``'s base class."""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import AsyncIterator, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

from langchain_core.language_models import LangSmithParams, ModelProfile
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.utils import convert_to_messages, count_tokens_approximately
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableConfig
from pydantic import Field, PrivateAttr, SecretStr, model_validator
from pydantic_core import PydanticUndefined, PydanticUndefinedType

from nanogpt_core._runtime.extras import missing_extra
from nanogpt_core._runtime.validation import check_positive
from nanogpt_core._runtime.workers import require_event_loop

try:
    from langchain_openai import StreamChunkTimeoutError

    from langchain_nanogpt.errors import map_to_langchain_errors
    from langchain_nanogpt.messages import PROVIDER, ConvertedReplies, restore_blocks, restore_reasoning
except ImportError as error:
    raise missing_extra("ChatNanoGPT", "langchain", error) from error

from langchain_nanogpt.options import ChatOptions
from langchain_nanogpt.structured import checked_structured_output, map_schema_errors
from nanogpt_core.chat.client import (
    AsyncChatClient,
    ChatClient,
    make_async_chat_client,
    make_chat_client,
    map_sdk_errors,
)
from nanogpt_core.chat.messages import naming_bad_message
from nanogpt_core.chat.options import (
    check_request_options,
    check_tool_choice,
    complete_options,
    request_options,
)
from nanogpt_core.chat.session import DEFAULT_RETRIES, ChatSession
from nanogpt_core.errors import ConfigurationError, InvalidTypeError, RequestTimeoutError
from nanogpt_core.http.endpoint import CHAT_TIMEOUT, DEFAULT_BASE_URL
from nanogpt_core.http.secrets import hide_secrets
from nanogpt_core.models.chat_catalog import ChatModelInfo, get_chat_model
from nanogpt_core.models.listing import fetch_chat_model
from nanogpt_core.plugins.chat_model import ChatModelBase
from nanogpt_core.plugins.model import ConstructorSignature

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

# LangChain imports these in its first call: a child that another thread forks meanwhile would wait for ever for the
# lock of a module.
for _name in ("tracers.context", "tracers.langchain", "tracers.run_collector", "tracers.stdout"):
    importlib.import_module(f"langchain_core.{_name}")
with contextlib.suppress(ImportError):  # not in all versions
    importlib.import_module("langchain_core.messages.block_translators.langchain_v0")

# Options of an endpoint that is not used here.
_RESPONSES_ONLY = ("use_responses_api", "use_previous_response_id", "include", "truncation", "context_management")
_CLIENTS = ("client", "root_client", "async_client", "root_async_client")
_REMEDY_FOR_CLIENTS = "Pass http_client and http_async_client."
# Options of clients that the base class would make itself, with what to do instead.
_UNUSED = {
    **dict.fromkeys(("openai_proxy", "http_socket_options"), _REMEDY_FOR_CLIENTS),
    "openai_organization": "Leave it out: NanoGPT has no organizations.",
    "default_query": "Leave it out: the service's API has no such parameters.",
}
_OUTPUT_VERSIONS = (None, "v0", "v1")
_BYTES_PER_TOKEN = 4
_SETTINGS_OF_A_RUN = ("callbacks", "tags", "metadata", "run_name", "run_id")
_SHARED_BY_COPIES = (
    *(*_CLIENTS, "http_client", "http_async_client", "rate_limiter", "limits"),
    *("on_request", "cache", "custom_get_token_ids"),
)


class ChatNanoGPT(ChatModelBase, ConvertedReplies):
    """NanoGPT's chat models in LangChain.

    Takes what ``ChatOpenAI`` takes for chat completions (``temperature``, ``max_tokens``, ``stop``, ``seed``,
    ``extra_body``, ...), and what is below. ``OPENAI_*`` variables are not read. Reasoning text is in
    ``additional_kwargs["reasoning_content"]`` and, as a block, in ``content_blocks``.

    Args:
        model: The model's name, with NanoGPT's suffixes such as ``:thinking`` and ``:online``. Default:
            ``"gpt-4o-mini"``.
        api_key: The key, a ``str`` or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        base_url: Base URL of the API. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        timeout: Seconds that one attempt may take, and that each event of a stream may keep waiting. Default: 600.
        max_retries: Attempts after the first, at least 0. A stream that has begun is not tried again. Default: 2, as in
            ``ChatOpenAI``.
        requests_per_second: Maximum number of attempts to start in a second, shared with all objects of this process
            that use the same key at the same address. Default: begins at 25, and follows the service, as in
            :class:`~nanogpt_core.Embedder`.
        limits: Limits that several processes share, such as :class:`nanogpt_core.RedisLimits`, in place of
            ``requests_per_second``. Their budget counts embeddings only. Dumps leave them out. Default: the
            limits of this process.
        on_request: A function that gets a :class:`nanogpt_core.RequestRecord` of each finished request. Its errors are
            logged, and do not end a call. Dumps leave it out. Default: none.
        profile: LangChain's profile of the model: its context window, for middleware such as
            ``SummarizationMiddleware(trigger=("fraction", 0.8))``, its longest answer and its abilities. Default: the
            packaged catalog's. ``"live"`` asks the service's list of models for it, now; in an event loop, make the
            object in a thread.
        reasoning: NanoGPT's options of reasoning, such as ``{"exclude": True}``. Default: none.
        send_reasoning: Send the reasoning of earlier turns back, under the name it came in, and provider fields such as
            ``reasoning_details`` and thought signatures. Default: True; some thinking models require it after tool
            calls.
        default_headers: HTTP headers to send beside the usual ones. Dumps leave them out. Default: none.
        http_client: An ``httpx.Client`` (``httpx2`` with openai 3.x) to send sync requests with. Default: none; then
            objects of this process share connections.
        http_async_client: An ``httpx.AsyncClient`` to send async requests with. Default: none.
        allow_insecure_http: Allow a plain ``http://`` base URL of another machine. Default: False.
        **options: Options of ``ChatOpenAI``, which describes them. For the request: ``temperature``, ``top_p``, ``n``,
            ``seed``, ``max_tokens``, ``stop`` (or ``stop_sequences``), ``presence_penalty``, ``frequency_penalty``,
            ``logit_bias``, ``logprobs``, ``top_logprobs``, ``reasoning_effort``, ``verbosity``, ``service_tier``,
            ``store``, ``prompt_cache_options``, ``streaming``, ``stream_usage``; ``model_kwargs`` for all other options
            of the SDK, and ``extra_body`` for those that only the service knows. For LangChain: ``name``, ``cache``,
            ``callbacks``, ``tags``, ``metadata``, ``verbose``, ``rate_limiter``, ``output_version``,
            ``custom_get_token_ids``, ``tiktoken_model_name``, ``disable_streaming``, ``disabled_params``,
            ``include_response_headers``, ``stream_chunk_timeout`` (of async streams only). Other names of options
            above: ``model_name``, ``openai_api_key``, ``openai_api_base``, ``request_timeout``.

    Raises:
        ConfigurationError: An invalid option, or no key. It is a ``ValueError``.
        InvalidTypeError: An option of the wrong type. It is a ``TypeError``.
    """

    _request_options_field: ClassVar[str] = "model_kwargs"
    _extra_body_hint: ClassVar[str] = "extra_body={}"
    _field_names: ClassVar[Mapping[str, str]] = {
        "model": "model_name",
        "api_key": "openai_api_key",
        "base_url": "openai_api_base",
        "timeout": "request_timeout",
    }
    _http_client_fields: ClassVar[tuple[str, str]] = ("http_client", "http_async_client")
    _live_field: ClassVar[str] = "profile"

    model_name: str = Field(default="gpt-4o-mini", alias="model")
    openai_api_key: Any = Field(default=None, alias="api_key", exclude=True, repr=False)
    openai_api_base: str | None = Field(default=DEFAULT_BASE_URL, alias="base_url")
    request_timeout: Any = Field(default=CHAT_TIMEOUT, alias="timeout")
    max_retries: int | None = DEFAULT_RETRIES
    # With False, LangChain turns streams off. None is also left by configurable_fields(), which passes all fields.
    streaming: bool | None = None  # type: ignore[assignment]
    stream_usage: bool | None = True
    use_responses_api: bool | None = False
    # The time for each event is ``timeout``, in sync streams too.
    stream_chunk_timeout: float | None = Field(default=None, exclude=True)

    _session: ChatSession = PrivateAttr()
    _has_own_profile: bool = PrivateAttr()

    def __init__(self, model: str | PydanticUndefinedType = PydanticUndefined, **options: Unpack[ChatOptions]) -> None:
        given = options = hide_secrets(options)  # type: ignore[assignment]
        if model is not PydanticUndefined:
            given["model"] = model
        fields = self._read_options(given)
        self._check_options(fields)
        _check_clients(fields)
        session = self._make_session(fields)
        has_own_profile = fields.get("profile") is not None
        if fields.get("profile") == "live":
            name = fields.get("model_name", type(self).model_fields["model_name"].default)
            fields["profile"] = _as_profile(fetch_chat_model(session.endpoint, name, fields.get("http_client")))
        # With clients in place, the base class makes none; with no proxy, it does not read OPENAI_PROXY.
        clients = (fields.get(name) for name in self._http_client_fields)
        fields |= {"openai_proxy": None, **_make_session_fields(session, *clients)}
        self._set_fields(fields)
        self._session, self._has_own_profile = session, has_own_profile

    @classmethod
    def _read_options(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        # LangChain moves options that are fields too, after the session is made, out of the caller's dictionary.
        more = given.get("model_kwargs", cls.model_fields["model_kwargs"].get_default(call_default_factory=True))
        if isinstance(more, Mapping) and more:
            names = request_options().intersection(cls._option_names()) - {"metadata"}
            fields = {name: value for name, value in more.items() if name in names}
            for name in fields.keys() & given.keys():
                raise ConfigurationError(f"{name} is in model_kwargs too.", remedy="Pass it once.")
            rest = {name: value for name, value in more.items() if name not in fields}
            given = {**given, **fields, "model_kwargs": rest}
        return super()._read_options(given)

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> None:
        super()._check_options(options)
        more = options.get("model_kwargs", {})
        if more.get("stream_options", {}) is None:
            raise ConfigurationError("stream_options is None.", remedy="Pass stream_usage=False.")
        check_request_options(options, cls._option_names(), extra_body_hint=cls._extra_body_hint)
        if "metadata" in more:
            raise ConfigurationError(
                "metadata in model_kwargs would not be sent: LangChain takes it for its own.",
                remedy="Pass extra_body={'metadata': ...}.",
            )
        for name, remedy in _UNUSED.items():
            if options.get(name) is not None:
                raise ConfigurationError(f"{cls.model_fields[name].alias or name} is not supported.", remedy=remedy)
        for name in _RESPONSES_ONLY:
            if options.get(name):
                raise ConfigurationError(f"{name} is for OpenAI's Responses API, which is not used here.")
        if options.get("output_version") not in _OUTPUT_VERSIONS:
            raise ConfigurationError(
                f'output_version must be "v0" or "v1", not {options["output_version"]!r}.',
                remedy="Others are for OpenAI's Responses API, which is not used here.",
            )
        if options.get("stream_chunk_timeout"):  # 0 turns it off
            check_positive("stream_chunk_timeout", options["stream_chunk_timeout"])
        if "use_responses_api" in options:
            options["use_responses_api"] = False  # None would let LangChain choose

    @model_validator(mode="before")
    @classmethod
    def validate_temperature(cls, values: dict[str, Any]) -> Any:
        """Let every temperature through: the base class drops it for names that mean something at OpenAI."""
        return values

    @model_validator(mode="after")
    def validate_environment(self) -> Self:
        """Let the base class complete a new object, and take nothing for other endpoints from the environment.

        Pydantic also validates a complete object: one that is a field of a model, or was made by ``model_validate``.
        """
        if not hasattr(self, "_session"):
            super().validate_environment()  # type: ignore[operator] # pydantic replaces the decorator by the method
            self.openai_organization = None
            if self.output_version not in _OUTPUT_VERSIONS:
                self.output_version = None
        return self

    def _set_session_fields(self) -> None:
        self.__dict__.update(_make_session_fields(self._session, self.http_client, self.http_async_client))

    def _shared_by_copies(self) -> list[Any]:
        handlers = self.callbacks if isinstance(self.callbacks, list) else [self.callbacks]
        return [*(getattr(self, name) for name in _SHARED_BY_COPIES), *handlers]

    def __iter__(self) -> Generator[tuple[str, Any], None, None]:  # noqa: PYI058 - as the base class
        """Yield the fields with their values, as LangChain reads them in the first call of an object."""
        # Of a copy: if several threads make that call, LangChain writes a cached property in one of them.
        yield from [(name, value) for name, value in self.__dict__.copy().items() if not name.startswith("_")]

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        fields = {**state["__dict__"]}  # a copy, as in __iter__()
        for name in (*_CLIENTS, "openai_api_key", "default_headers"):
            fields.pop(name, None)
        return {**state, "__dict__": fields}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._set_session_fields()
        self.__dict__["default_headers"] = self._session.endpoint.headers or None

    def _resolve_model_profile(self) -> ModelProfile | None:
        info = get_chat_model(self.model_name)
        profile: ModelProfile | None = super()._resolve_model_profile()
        return profile if info is None else {**(profile or {}), **_as_profile(info)}

    def _update_dependents(self, changes: Mapping[str, Any]) -> None:
        super()._update_dependents(changes)
        if "profile" in changes:
            self._has_own_profile = changes["profile"] is not None
        if not self._has_own_profile and not changes.keys().isdisjoint(("model_name", "profile")):
            self.__dict__["profile"] = self._resolve_model_profile()

    @property
    def _llm_type(self) -> str:
        return "nanogpt-chat"

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return True: a dump names the variable that holds the key, and not the key."""
        return True

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Arguments that are secrets, with the variables that hold them."""
        return {"openai_api_key": "NANOGPT_API_KEY", "api_key": "NANOGPT_API_KEY"}

    def bind_tools(self, tools: Any, *, tool_choice: Any = None, **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Bind tools, as ``ChatOpenAI`` does.

        Raises:
            InvalidInputError: ``tool_choice`` names none of them. It is a ``ValueError``.
        """
        bound = super().bind_tools(tools, tool_choice=tool_choice, **kwargs)
        options = getattr(bound, "kwargs", {})
        check_tool_choice(options.get("tool_choice"), options.get("tools"))
        return bound

    def with_structured_output(self, schema: Any = None, **kwargs: Any) -> Runnable[Any, Any]:
        """Return a runnable whose output follows ``schema``, as ``ChatOpenAI`` does; the default is a tool call.

        An answer that does not follow the schema, or is only the beginning of one, is LangChain's
        ``OutputParserException``, streamed or not.
        """
        return checked_structured_output(super().with_structured_output, schema, kwargs)

    def get_num_tokens(self, text: str) -> int:
        """Count tokens as OpenAI's models do; without tiktoken's file, a token for four bytes."""
        try:
            return super().get_num_tokens(text)
        except OSError:
            return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN)

    def get_num_tokens_from_messages(self, messages: Sequence[BaseMessage], tools: Any = None, **options: Any) -> int:
        """Count tokens, for ``trim_messages(token_counter=chat)`` for example.

        OpenAI's models are counted as OpenAI does. LangChain's approximation is used for all others, and if tiktoken's
        file is not available.
        """
        try:
            return super().get_num_tokens_from_messages(messages, tools, **options)
        except (NotImplementedError, OSError):
            return count_tokens_approximately(messages, tools=tools)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        return LangSmithParams(**{**super()._get_ls_params(stop=stop, **kwargs), "ls_provider": PROVIDER})

    def _convert_input(self, model_input: Any) -> Any:
        messages = model_input if isinstance(model_input, (list, tuple)) else ()
        with naming_bad_message(messages, lambda message: convert_to_messages([message])):
            return super()._convert_input(model_input)

    def _get_request_payload(self, input_: Any, *, stop: list[str] | None = None, **kwargs: Any) -> dict[str, Any]:
        messages, make_payload = self._convert_input(input_).to_messages(), super()._get_request_payload
        with naming_bad_message(messages, lambda message: make_payload([message])):
            payload = make_payload(messages, stop=stop, **kwargs)
        for message, sent in zip(messages, payload["messages"], strict=True):
            restore_blocks(message, sent)
            if self.send_reasoning:
                restore_reasoning(message, sent)
        check_request_options(payload, ("reasoning",), extra_body_hint=self._extra_body_hint)
        complete_options(payload, kwargs, stream_usage=bool(self.stream_usage))
        # The SDK knows reasoning only for another endpoint. With a response_format it would parse the arguments of
        # strict tools, and end the call with a raw error if it cannot.
        is_parsed = bool(payload.get("tools")) and isinstance(payload.get("response_format"), dict)
        names = ["reasoning", *(["response_format"] if is_parsed else ())]
        body = {name: payload.pop(name) for name in names if payload.get(name) is not None}
        if body:
            payload["extra_body"] = {**body, **(payload.get("extra_body") or {})}
        for name in ("reasoning", "response_format"):  # the SDK refuses None
            if payload.get(name) is None:
                payload.pop(name, None)
        return payload

    def invoke(
        self,
        input: Any,  # noqa: A002 - LangChain's name
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Return the answer; ``.content`` or ``.text`` is its text.

        Args:
            input: A text, a list of messages or a prompt's value.
            config: LangChain's settings of this run, such as callbacks, tags and metadata.
            stop: Texts that end the answer.
            **kwargs: Options of this request, such as ``temperature``; they go before those of the object.

        Raises:
            InvalidTypeError: A setting of the run is among the options. It is a ``TypeError``.
            NanoGPTError: The request failed, or the reply is damaged.
        """
        _check_call(kwargs)
        return super().invoke(input, config, stop=stop, **kwargs)

    async def ainvoke(
        self,
        input: Any,  # noqa: A002
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """Do what :meth:`invoke` does, without blocking the event loop."""
        require_event_loop()
        _check_call(kwargs)
        return await super().ainvoke(input, config, stop=stop, **kwargs)

    @contextlib.contextmanager
    def _as_langchain_errors(self, options: Mapping[str, Any]) -> Iterator[None]:
        with map_to_langchain_errors(), map_sdk_errors(self._session), map_schema_errors(options):
            yield

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        with self._as_langchain_errors(kwargs):
            return super()._generate(*args, **kwargs)

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        with self._as_langchain_errors(kwargs):
            return await super()._agenerate(*args, **kwargs)

    # LangChain closes its streams itself, so no iterate_stream here: docs/adr/0015-chat-in-a-transport.md.
    def _stream(self, *args: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        with self._as_langchain_errors(kwargs):
            yield from super()._stream(*args, **self._stream_options(kwargs))

    async def _astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        with self._as_langchain_errors(kwargs):
            try:
                async for chunk in super()._astream(*args, **self._stream_options(kwargs)):
                    yield chunk
            except StreamChunkTimeoutError as error:
                raise RequestTimeoutError(
                    f"No further part of the answer came within {self.stream_chunk_timeout:g} s.",
                    remedy="Try again, or raise stream_chunk_timeout.",
                ) from error

    def _stream_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a stream for LangChain, which itself would replace all ``stream_options``."""
        _check_call(options)
        check_request_options({"stream_options": options.get("stream_options")}, extra_body_hint="")
        given, usage = options.pop("stream_options", None), options.pop("stream_usage", None)
        asked = {**(self.model_kwargs.get("stream_options") or {}), **(given or {})}
        if usage is not None:
            asked["include_usage"] = usage
        return {**options, "stream_options": asked, "stream_usage": False}


def _check_call(options: Mapping[str, Any]) -> None:
    """Check that no option of a call is a setting of LangChain's run, for which LangChain's error is raw."""
    name = next((name for name in _SETTINGS_OF_A_RUN if name in options), None)
    if name is not None:
        more = ", or extra_body={'metadata': ...} for the service's" if name == "metadata" else ""
        raise InvalidTypeError(f"{name} is no option of a call.", remedy=f"Pass config={{{name!r}: ...}}{more}.")


def _check_clients(options: Mapping[str, Any]) -> None:
    """Check that the constructor gets no clients, since it makes them. Later, a test may set a mock in place of one."""
    # configurable_fields() passes all fields of an object, and so the clients that were made for it.
    given = [name for name in _CLIENTS if options.get(name) is not None]
    if given and not _are_own_clients(*map(options.get, _CLIENTS)):
        raise ConfigurationError(f"{given[0]} is not supported.", remedy=_REMEDY_FOR_CLIENTS)


def _are_own_clients(client: Any, root: Any, async_client: Any, async_root: Any) -> bool:
    """Return whether these are the clients of another object of this class."""
    return (
        (isinstance(root, ChatClient) and isinstance(async_root, AsyncChatClient))
        and client is root.chat.completions
        and async_client is async_root.chat.completions
    )


def _make_session_fields(session: ChatSession, http_client: Any, http_async_client: Any) -> dict[str, Any]:
    """Return the fields that follow from a session: its options, and the SDK's clients."""
    endpoint = session.endpoint
    client, async_client = make_chat_client(session, http_client), make_async_chat_client(session, http_async_client)
    return {
        "openai_api_key": SecretStr(endpoint.key.reveal_or_empty() if endpoint.key else ""),
        "openai_api_base": endpoint.base_url,
        "request_timeout": endpoint.timeout,
        "max_retries": session.max_retries,
        "client": client.chat.completions,
        "root_client": client,
        "async_client": async_client.chat.completions,
        "root_async_client": async_client,
    }


def _as_profile(info: ChatModelInfo) -> ModelProfile:
    """Return what is known of a model as LangChain's profile of it."""
    known = {
        "max_input_tokens": info.context_window,
        "max_output_tokens": info.max_output_tokens,
        "tool_calling": info.tool_calling,
        "structured_output": info.structured_output,
        "image_inputs": info.image_inputs,
        "pdf_inputs": info.pdf_inputs,
        "reasoning_output": info.reasoning,
    }
    given = {name: value for name, value in known.items() if value is not None}
    return cast("ModelProfile", {"text_inputs": True, "text_outputs": True, **given})


ChatNanoGPT.__signature__ = ConstructorSignature("str", lambda: ChatOptions)  # type: ignore[assignment]
