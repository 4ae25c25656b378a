"""LlamaIndex's LLM over NanoGPT, on ``llama-index-llms-openai-like``."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr
from llama_index.llms.openai_like import OpenAILike

from nanogpt_core.connection import DEFAULT_TIMEOUT, ApiKey, Connection
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.sdk import AsyncClient, Client, make_async_client, make_client

__all__ = ["NanoGPT"]

_CONTEXT_WINDOW = 128_000


class NanoGPT(OpenAILike):  # type: ignore[misc] # the package ships no types
    """NanoGPT's chat models in LlamaIndex, for ``Settings.llm``.

    Args:
        model: The model's name.
        api_key: The key, as text or ``SecretStr``. Default: ``NANOGPT_API_KEY``, then ``NANO_GPT_API_KEY``.
        api_base: Where the API begins. Default: ``NANOGPT_BASE_URL``, then ``https://nano-gpt.com/api/v1``.
        base_url: The same.
        timeout: Seconds that one attempt may take.
        context_window: Tokens that the model takes in all. Default: 128,000.
        **options: What else ``OpenAILike`` takes.

    Raises:
        ConfigurationError: No key, or a base URL that cannot be right. It is a ``ValueError``.
    """

    # Pydantic's errors would show the whole input, and the key with it.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    api_key: Any = Field(default=None, exclude=True, repr=False)
    default_headers: dict[str, str] | None = Field(default=None, exclude=True, repr=False)

    _connection: Connection = PrivateAttr()
    _client: Client | None = PrivateAttr(default=None)
    _aclient: AsyncClient | None = PrivateAttr(default=None)

    def __init__(
        self,
        model: str = "gpt-4o-mini",
        *,
        api_key: ApiKey = None,
        api_base: str | None = None,
        base_url: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        default_headers: dict[str, str] | None = None,
        **options: Any,
    ) -> None:
        if api_base is not None and base_url is not None and api_base != base_url:
            raise ConfigurationError("api_base and base_url differ.", remedy="They mean the same; pass one.")
        connection = Connection.resolve(
            api_key=api_key,
            base_url=base_url if api_base is None else api_base,
            timeout=timeout,
            headers=default_headers,
        )
        # Token counts at the end of a stream come only when asked for.
        more = {"stream_options": {"include_usage": True}, **(options.pop("additional_kwargs", None) or {})}
        settings = {
            "is_chat_model": True,
            "is_function_calling_model": True,
            "context_window": _CONTEXT_WINDOW,
            **options,
            "additional_kwargs": more,
            "default_headers": default_headers,
        }
        # A key in the argument keeps the base class from taking one out of OPENAI_API_KEY.
        super().__init__(model=model, api_key=connection.key, api_base=connection.base_url, timeout=timeout, **settings)
        self.api_version = None  # the base class takes it from OPENAI_API_VERSION
        self._connection = connection

    # The base class retries around the SDK, which retries as well: one of both is enough, and the SDK's covers streams.
    _chat = OpenAILike._chat.__wrapped__
    _achat = OpenAILike._achat.__wrapped__
    _complete = OpenAILike._complete.__wrapped__
    _acomplete = OpenAILike._acomplete.__wrapped__

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super(NanoGPT, self._without_clients()).__getstate__()
        return state

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> NanoGPT:
        memo = {} if memo is None else memo
        memo.update({id(one): one for one in (self._http_client, self._async_http_client)})
        twin: NanoGPT = super(NanoGPT, self._without_clients()).__deepcopy__(memo)
        return twin

    def _without_clients(self) -> NanoGPT:
        # Clients do not travel; a copy makes its own when it needs them.
        twin: NanoGPT = self.model_copy()
        twin._client = twin._aclient = None
        return twin

    @classmethod
    def class_name(cls) -> str:
        """Return the name that dumps carry."""
        return "NanoGPT"

    def _get_client(self) -> Client:
        if self._client is None:
            self._client = make_client(self._connection, self._http_client, max_retries=self.max_retries)
        return self._client

    def _get_aclient(self) -> AsyncClient:
        if self._aclient is None:
            self._aclient = make_async_client(self._connection, self._async_http_client, max_retries=self.max_retries)
        return self._aclient
