"""LlamaIndex's LLM over NanoGPT, on ``llama-index-llms-openai-like``."""

from __future__ import annotations

from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
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

    api_key: Any = Field(default=None, exclude=True, repr=False)

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
        settings = {
            "is_chat_model": True,
            "is_function_calling_model": True,
            "context_window": _CONTEXT_WINDOW,
            **options,
        }
        # A key in the argument keeps the base class from taking one out of OPENAI_API_KEY.
        super().__init__(model=model, api_key="unused", api_base=connection.base_url, timeout=timeout, **settings)
        self.api_key = connection.key
        self._connection = connection

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
