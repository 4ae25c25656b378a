"""LlamaIndex's LLM over NanoGPT, on ``llama-index-llms-openai-like``."""

from __future__ import annotations

import copy
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import openai
from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager
from pydantic_core import PydanticUndefined, PydanticUndefinedType

from nanogpt_core._runtime.extras import missing_extra

try:
    from llama_index.llms.openai.utils import O1_MODELS
    from llama_index.llms.openai_like import OpenAILike
except ImportError as error:
    raise missing_extra("NanoGPT", "llama-index", error) from error

from llama_index_nanogpt.messages import ReceivedMessage, check_message, complete_messages
from llama_index_nanogpt.options import LLMOptions
from llama_index_nanogpt.spans import in_span_of_base_class
from llama_index_nanogpt.structured import StructuredOutput
from llama_index_nanogpt.tool_calls import ToolCalls, invalidate_broken_arguments
from nanogpt_core._runtime.validation import check_bool, check_can_be_pickled, check_methods, check_number
from nanogpt_core.chat.client import (
    aiterate_stream,
    iterate_stream,
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
from nanogpt_core.chat.session import ChatSession
from nanogpt_core.errors import ConfigurationError, InvalidTypeError
from nanogpt_core.http.endpoint import CHAT_TIMEOUT, DEFAULT_BASE_URL
from nanogpt_core.http.secrets import hide_secrets
from nanogpt_core.models.chat_catalog import ChatModelInfo, get_chat_model
from nanogpt_core.models.listing import fetch_chat_model
from nanogpt_core.plugins.chat_model import ChatModelBase
from nanogpt_core.plugins.model import ConstructorSignature

if TYPE_CHECKING:
    from typing_extensions import Unpack

_CONTEXT_WINDOW = 128_000
_SHARE_OF_WINDOW_FOR_ANSWER = 4  # a quarter at most: some models' answers may fill the whole window


def _check_call(options: Mapping[str, Any]) -> None:
    if "stream" in options:
        raise InvalidTypeError("stream is no option of a call.", remedy="Call stream_chat() or stream_complete().")


def _check_messages(messages: Any, options: Mapping[str, Any]) -> None:
    _check_call(options)
    is_list = isinstance(messages, Sequence) and not isinstance(messages, str)
    wrong = [one for one in messages if not isinstance(one, ChatMessage)] if is_list else [messages]
    if wrong:
        raise InvalidTypeError(
            f"messages must be a list of ChatMessage objects, not {'of ' * is_list}{type(wrong[0]).__name__}.",
            remedy="A text goes to complete() and stream_complete(), or into [ChatMessage(content=...)].",
        )


def _check_prompt(prompt: Any, options: Mapping[str, Any]) -> None:
    _check_call(options)
    if not isinstance(prompt, str):
        raise InvalidTypeError(
            f"prompt must be a str, not {type(prompt).__name__}.", remedy="Messages go to chat() and stream_chat()."
        )


class NanoGPT(ChatModelBase, ToolCalls, StructuredOutput):
    """NanoGPT's chat models in LlamaIndex, for ``Settings.llm``.

    Args:
        model: The model's name, with NanoGPT's suffixes such as ``:thinking`` and ``:online``. Default:
            ``"gpt-4o-mini"``.
        api_key: The key, a ``str`` or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        api_base: Base URL of the API. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        base_url: Another name of ``api_base``.
        timeout: Seconds that one attempt may take, and that each event of a stream may keep waiting. Default: 600.
        max_retries: Attempts after the first, at least 0. A stream that has begun is not tried again. Default: 3, as in
            LlamaIndex's ``OpenAI``.
        requests_per_second: Maximum number of attempts to start in a second, shared with all objects of this process
            that use the same key at the same address. Default: begins at 25, and follows the service, as in
            :class:`~nanogpt_core.Embedder`.
        limits: Limits that several processes share, such as :class:`nanogpt_core.RedisLimits`, in place of
            ``requests_per_second``. Their budget counts embeddings only. Dumps leave them out. Default: the
            limits of this process.
        on_request: A function that gets a :class:`nanogpt_core.RequestRecord` of each finished request. Its errors are
            logged, and do not end a call. Dumps leave it out. Default: none.
        context_window: Tokens that the model takes in all. Default: the packaged catalog's number for the model, or
            128,000 for an unknown one. ``"live"`` asks the service's list of models for it, now, and keeps the number.
            The longest answer comes from the same place, unless ``max_tokens`` is set.
        send_reasoning: Send the reasoning of earlier turns back, under the name it came in, and provider fields such as
            ``reasoning_details`` and thought signatures. Default: True; some thinking models require it after tool
            calls.
        default_headers: HTTP headers to send beside the usual ones. Dumps leave them out. Default: none.
        allow_insecure_http: Allow a plain ``http://`` base URL of another machine. Default: False.
        **options: Options of ``OpenAILike``, which describes them. For the request: ``temperature``, ``max_tokens``,
            ``logprobs``, ``top_logprobs``, ``strict``, ``reasoning_effort``, ``modalities``, ``audio_config``;
            ``additional_kwargs`` for all other options of the SDK. For the connection: ``http_client`` and
            ``async_http_client`` (clients of ``httpx``, or ``httpx2`` with openai 3.x), ``reuse_client``. For
            LlamaIndex: ``callback_manager``, ``rate_limiter``, ``system_prompt``, ``messages_to_prompt``,
            ``completion_to_prompt``, ``query_wrapper_prompt``, ``output_parser``, ``pydantic_program_mode``,
            ``is_chat_model``, ``is_function_calling_model``, ``should_use_structured_outputs``, ``tokenizer``.

    Raises:
        ConfigurationError: An invalid option, or no key. It is a ``ValueError``.
        InvalidTypeError: An option of the wrong type. It is a ``TypeError``.
    """

    _request_options_field: ClassVar[str] = "additional_kwargs"
    _extra_body_hint: ClassVar[str] = "additional_kwargs={'extra_body': {}}, and in a call into extra_body={}"
    _field_names: ClassVar[Mapping[str, str]] = {"base_url": "api_base", "max_new_tokens": "max_tokens"}
    _http_client_fields: ClassVar[tuple[str, str]] = ("http_client", "async_http_client")
    _live_field: ClassVar[str] = "context_window"

    model: str = Field(default="gpt-4o-mini", description="The model's name.")
    http_client: Any = Field(default=None, exclude=True, repr=False)
    async_http_client: Any = Field(default=None, exclude=True, repr=False)
    api_key: Any = Field(default=None, exclude=True, repr=False)
    api_base: str = Field(default=DEFAULT_BASE_URL, description="The API's URL.")
    api_version: str | None = Field(default=None, exclude=True)
    timeout: float = Field(default=CHAT_TIMEOUT, description="Seconds that an attempt, or an event, may take.")
    is_chat_model: bool = True
    is_function_calling_model: bool = True

    _session: ChatSession = PrivateAttr()
    _info: ChatModelInfo | None = PrivateAttr()
    _has_own_window: bool = PrivateAttr()
    _has_own_temperature: bool = PrivateAttr()
    _client: openai.OpenAI | None = PrivateAttr(default=None)
    _aclient: openai.AsyncOpenAI | None = PrivateAttr(default=None)

    def __init__(self, model: str | PydanticUndefinedType = PydanticUndefined, **options: Unpack[LLMOptions]) -> None:
        given = options = hide_secrets(options)  # type: ignore[assignment]
        given.pop("class_name", None)  # dumps carry it
        if model is not PydanticUndefined:
            given["model"] = model
        fields = self._read_options(given)
        fields.setdefault("model", type(self).model_fields["model"].default)
        has_own_window = fields.get("context_window") is not None
        is_live = fields.get("context_window") == "live"
        if is_live:
            del fields["context_window"]
        self._check_options(fields)
        self._check_names(fields)
        fields = {name: value for name, value in fields.items() if value is not None}
        session = self._make_session(fields)
        name, client = fields["model"], fields.get("http_client")
        info = fetch_chat_model(session.endpoint, name, client) if is_live else get_chat_model(name)
        has_own_temperature = "temperature" in fields
        defaults = {"context_window": _window_of(info), "temperature": self._default_temperature(name)}
        # A key in the argument keeps the base class from taking one out of OPENAI_API_KEY. It refuses some names that
        # OpenAI itself serves at another endpoint, so the name is set afterwards.
        stand_ins = {"model": "nanogpt", "api_key": session.endpoint.key}
        self._set_fields({**defaults, **fields, **stand_ins})
        self.model = name
        self.api_version = None  # the base class takes it from OPENAI_API_VERSION
        # The base class keeps the clients in private attributes.
        self.__dict__.update({name: fields.get(name) for name in self._http_client_fields})
        self._info, self._has_own_window = info, has_own_window
        self._has_own_temperature = has_own_temperature
        self._session = session
        self._set_session_fields()

    @classmethod
    def _check_names(cls, names: Iterable[str]) -> None:
        for name in names:
            if name in request_options() and name not in cls.model_fields:
                raise InvalidTypeError(
                    f"Unknown option {name!r}.",
                    remedy=f"Pass additional_kwargs={{{name!r}: ...}}, or {name}=... in a call.",
                )
        super()._check_names(names)

    @classmethod
    def _check_options(cls, options: dict[str, Any]) -> None:
        super()._check_options(options)
        for name in ("openai_client", "async_openai_client"):
            if options.pop(name, None) is not None:
                raise ConfigurationError(f"{name} is not supported.", remedy="Pass http_client or async_http_client.")
        if options.get("api_version") is not None:
            raise ConfigurationError("api_version has no meaning here.", remedy="Leave it out; it is Azure's.")
        if options.get("is_chat_model") is not None:
            check_bool("is_chat_model", options["is_chat_model"])
        check_methods("rate_limiter", options.get("rate_limiter"), "acquire", "async_acquire")
        check_methods("callback_manager", options.get("callback_manager"), "event")
        check_methods("output_parser", options.get("output_parser"), "parse", "format", "format_messages")
        if "callback_manager" in options and options["callback_manager"] is None:
            options["callback_manager"] = CallbackManager()
        if options.get("is_chat_model") is False:
            raise ConfigurationError("is_chat_model=False is not supported.", remedy="NanoGPT has only chat models.")
        if options.get("context_window") is not None:
            check_number("context_window", options["context_window"], 1)

    def _update_dependents(self, changes: Mapping[str, Any]) -> None:
        super()._update_dependents(changes)
        if "context_window" in changes:
            self._has_own_window = True
        if "temperature" in changes:
            self._has_own_temperature = True
        self.check_prompts()  # None is their default
        if "model" in changes:
            self._info = get_chat_model(self.model)
            if not self._has_own_window:
                self.__dict__["context_window"] = _window_of(self._info)
            if not self._has_own_temperature:
                self.__dict__["temperature"] = self._default_temperature(self.model)

    @classmethod
    def _default_temperature(cls, model: str) -> float:
        default: float = cls.model_fields["temperature"].default
        return 1.0 if model in O1_MODELS else default  # these models refuse every other one

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        left_out = () if self._has_own_window else ("context_window",)
        return [(name, value) for name, value in super().__repr_args__() if name not in left_out]

    @property
    def metadata(self) -> LLMMetadata:
        """The context window, the longest answer and the abilities of the model, for LlamaIndex."""
        metadata: LLMMetadata = super().metadata
        longest = self._info.max_output_tokens if self._info else None
        if self.max_tokens is None and longest is not None:
            # LlamaIndex keeps this many tokens of the context window free of passages.
            metadata.num_output = min(longest, self.context_window // _SHARE_OF_WINDOW_FOR_ANSWER)
        return metadata

    def _chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        received = ReceivedMessage(self._get_model_kwargs(**kwargs))
        with map_sdk_errors(self._session), naming_bad_message(messages, check_message):
            response = _without_retries(OpenAILike._chat)(self, messages, **self._with_messages(messages, kwargs))
        return invalidate_broken_arguments(received.add_to(response))

    async def _achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        received = ReceivedMessage(self._get_model_kwargs(**kwargs))
        with map_sdk_errors(self._session), naming_bad_message(messages, check_message):
            sent = self._with_messages(messages, kwargs)
            response = await _without_retries(OpenAILike._achat)(self, messages, **sent)
        return invalidate_broken_arguments(received.add_to(response))

    def _stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Iterator[ChatResponse]:
        self._check_can_stream()
        received = ReceivedMessage(self._get_model_kwargs(stream=True, **kwargs))
        with naming_bad_message(messages, check_message):
            sent = self._with_messages(messages, kwargs)
            stream = _without_retries(OpenAILike._stream_chat)(self, messages, **sent)
        return (received.add_to(part) for part in iterate_stream(self._session, stream))

    async def _astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> AsyncIterator[ChatResponse]:
        self._check_can_stream()
        received = ReceivedMessage(self._get_model_kwargs(stream=True, **kwargs))
        with naming_bad_message(messages, check_message):
            sent = self._with_messages(messages, kwargs)
            stream = await _without_retries(OpenAILike._astream_chat)(self, messages, **sent)
        return (received.add_to(part) async for part in aiterate_stream(self._session, stream))

    # LlamaIndex's errors for audio are raw, and it passes over modalities that are no option of the object.
    def _check_text_only(self, options: Mapping[str, Any]) -> None:
        asked = [one.get("modalities") for one in (options, self.additional_kwargs)]
        if any("audio" in one for one in (self.modalities, *asked) if isinstance(one, Sequence)):
            raise ConfigurationError(
                "modalities asks for audio, and a completion is text only.", remedy="Call chat() or achat()."
            )

    def _check_can_stream(self) -> None:
        if "audio" in (self.modalities or ()):
            raise ConfigurationError(
                "LlamaIndex streams no audio if modalities is an option of the object.",
                remedy="Pass modalities and audio in the call, or call chat() or achat().",
            )

    def _with_messages(self, messages: Sequence[ChatMessage], options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of a call with the messages as they are sent, if LlamaIndex would leave a part out."""
        sent = complete_messages(messages, self.model, send_reasoning=self.send_reasoning)
        if sent is None:
            return options
        # The SDK puts the fields of extra_body over its own.
        ours, of_call = self.additional_kwargs.get("extra_body") or {}, options.get("extra_body") or {}
        return {**options, "extra_body": {"messages": sent, **ours, **of_call}}

    # LlamaIndex's errors for other types are raw.
    @in_span_of_base_class
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Return the answer to a conversation: ``.message.content`` is its text.

        Args:
            messages: The conversation: a list of ``ChatMessage``.
            **kwargs: Options of this request, such as ``temperature``; they go before those of the object.

        Raises:
            InvalidTypeError: ``messages`` has another type. It is a ``TypeError``.
            NanoGPTError: The request failed, or the reply is damaged.
        """
        _check_messages(messages, kwargs)
        response: ChatResponse = super().chat(messages, **kwargs)
        return response

    @in_span_of_base_class
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Do what :meth:`chat` does, without blocking the event loop."""
        _check_messages(messages, kwargs)
        response: ChatResponse = await super().achat(messages, **kwargs)
        return response

    @in_span_of_base_class
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Generator[ChatResponse, None, None]:
        """Stream the answer to a conversation: ``.delta`` is the new text of each response; see :meth:`chat`."""
        _check_messages(messages, kwargs)
        stream: Generator[ChatResponse, None, None] = super().stream_chat(messages, **kwargs)
        return stream

    @in_span_of_base_class
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> AsyncGenerator[ChatResponse, None]:
        """Do what :meth:`stream_chat` does, without blocking: await it, then iterate."""
        _check_messages(messages, kwargs)
        stream: AsyncGenerator[ChatResponse, None] = await super().astream_chat(messages, **kwargs)
        return stream

    @in_span_of_base_class
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Return the answer to a prompt: ``.text`` is its text.

        Args:
            prompt: The text, which is sent as one message of the user.
            formatted: True if the prompt is not to be changed by ``completion_to_prompt``. Default: False.
            **kwargs: Options of this request, such as ``temperature``; they go before those of the object.

        Raises:
            InvalidTypeError: ``prompt`` is no text. It is a ``TypeError``.
            ConfigurationError: The object or the call asks for audio. It is a ``ValueError``.
            NanoGPTError: The request failed, or the reply is damaged.
        """
        _check_prompt(prompt, kwargs)
        self._check_text_only(kwargs)
        response: CompletionResponse = super().complete(prompt, formatted, **kwargs)
        return response

    @in_span_of_base_class
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Do what :meth:`complete` does, without blocking the event loop."""
        _check_prompt(prompt, kwargs)
        self._check_text_only(kwargs)
        response: CompletionResponse = await super().acomplete(prompt, formatted, **kwargs)
        return response

    @in_span_of_base_class
    def stream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> Generator[CompletionResponse, None, None]:
        """Stream the answer to a prompt: ``.delta`` is the new text of each response; see :meth:`complete`."""
        _check_prompt(prompt, kwargs)
        self._check_text_only(kwargs)
        stream: Generator[CompletionResponse, None, None] = super().stream_complete(prompt, formatted, **kwargs)
        return stream

    @in_span_of_base_class
    async def astream_complete(
        self, prompt: str, formatted: bool = False, **kwargs: Any
    ) -> AsyncGenerator[CompletionResponse, None]:
        """Do what :meth:`stream_complete` does, without blocking: await it, then iterate."""
        _check_prompt(prompt, kwargs)
        self._check_text_only(kwargs)
        stream: AsyncGenerator[CompletionResponse, None] = await super().astream_complete(prompt, formatted, **kwargs)
        return stream

    def _get_response_token_counts(self, raw_response: Any) -> dict[str, Any]:
        counts: dict[str, Any] = super()._get_response_token_counts(raw_response)
        cost = getattr(getattr(raw_response, "usage", None), "cost_usd", None)
        return counts if cost is None else {**counts, "cost_usd": cost}

    def _set_session_fields(self) -> None:
        self._client = self._aclient = None  # made when they are needed
        endpoint = self._session.endpoint
        self.__dict__.update(
            api_key=endpoint.key,
            api_base=endpoint.base_url,
            timeout=endpoint.timeout,
            max_retries=self._session.max_retries,
        )

    def _shared_by_copies(self) -> list[Any]:
        clients = (self._client, self._aclient, self.http_client, self.async_http_client)
        return [*clients, self.limits, self.on_request, self.rate_limiter, self.callback_manager]

    def __getstate__(self) -> dict[str, Any]:
        # The base class leaves out attributes that cannot be pickled; a hook must not get lost like that.
        check_can_be_pickled(on_request=self.on_request)
        # A copy has no clients, which cannot be pickled.
        state = super(NanoGPT, copy.copy(self)).__getstate__()
        return {**state, "__dict__": {**state["__dict__"], "default_headers": self._session.endpoint.headers or None}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # calls the constructor, with the fields only
        for name in ("_info", "_has_own_window", "_has_own_temperature"):
            setattr(self, name, state["__pydantic_private__"][name])

    @classmethod
    def class_name(cls) -> str:
        """Return the name that dumps carry."""
        return "NanoGPT"

    def _get_client(self) -> openai.OpenAI:
        if self._client is None or not self.reuse_client:
            self._client = make_chat_client(self._session, self.http_client)
        return self._client

    def _get_aclient(self) -> openai.AsyncOpenAI:
        if self._aclient is None or not self.reuse_client:
            self._aclient = make_async_chat_client(self._session, self.async_http_client)
        return self._aclient

    def _get_model_kwargs(self, **kwargs: Any) -> dict[str, Any]:
        settings: dict[str, Any] = super()._get_model_kwargs(**kwargs)
        if self.reasoning_effort is not None:
            settings["reasoning_effort"] = self.reasoning_effort
        if self.top_logprobs and self.logprobs is None:  # LlamaIndex would leave it out
            settings["top_logprobs"] = self.top_logprobs
        # What one call asks for goes before what the object was made with.
        settings.update(kwargs)
        check_request_options(settings, extra_body_hint=self._extra_body_hint)
        complete_options(settings, kwargs, stream_usage=True)
        check_tool_choice(settings.get("tool_choice"), settings.get("tools"))
        return settings


def _without_retries(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the base class's method without its second retry layer, which multiplies ours and covers no streams."""
    plain: Callable[..., Any] = inspect.unwrap(method)
    return plain


def _window_of(info: ChatModelInfo | None) -> int:
    window = info.context_window if info else None
    return _CONTEXT_WINDOW if window is None else window


NanoGPT.__signature__ = ConstructorSignature("str", lambda: LLMOptions, context_window=None)  # type: ignore[assignment]
