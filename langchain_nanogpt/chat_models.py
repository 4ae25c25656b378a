"""LangChain's chat model over NanoGPT, on ``langchain-openai``'s base class."""

from __future__ import annotations

from typing import Any

from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import Field, SecretStr, model_validator

from nanogpt_core.connection import DEFAULT_TIMEOUT, Connection
from nanogpt_core.sdk import make_async_client, make_client

__all__ = ["ChatNanoGPT"]

_DEFAULT_RETRIES = 2


class ChatNanoGPT(BaseChatOpenAI):
    """NanoGPT's chat models in LangChain.

    Takes ``model``, ``api_key``, ``base_url``, ``temperature``, ``max_tokens``, ``timeout``, ``max_retries``,
    ``default_headers``, ``http_client``, ``http_async_client`` and what else ``ChatOpenAI`` takes. Key and base URL
    come from ``NANOGPT_API_KEY``, ``NANO_GPT_API_KEY`` and ``NANOGPT_BASE_URL`` by default; ``OPENAI_*`` variables are
    not read.

    Raises:
        ConfigurationError: No key, or a base URL that cannot be right. It is a ``ValueError``.
    """

    model_name: str = Field(default="gpt-4o-mini", alias="model")

    @model_validator(mode="before")
    @classmethod
    def _connect(cls, values: dict[str, Any]) -> dict[str, Any]:
        def take(*names: str, default: Any = None) -> Any:
            return next((values[name] for name in names if values.get(name) is not None), default)

        connection = Connection.resolve(
            api_key=take("api_key", "openai_api_key"),
            base_url=take("base_url", "openai_api_base"),
            timeout=take("timeout", "request_timeout", default=DEFAULT_TIMEOUT),
            headers=take("default_headers"),
        )
        retries = take("max_retries", default=_DEFAULT_RETRIES)
        client = make_client(connection, take("http_client"), max_retries=retries)
        async_client = make_async_client(connection, take("http_async_client"), max_retries=retries)
        assert connection.key is not None  # noqa: S101 - resolve() raises without a key
        # With clients of our own in place, the base class builds none from OPENAI_* variables.
        ours = {
            "api_key": SecretStr(connection.key.get_secret_value()),
            "base_url": connection.base_url,
            "client": client.chat.completions,
            "root_client": client,
            "async_client": async_client.chat.completions,
            "root_async_client": async_client,
            "openai_proxy": None,
        }
        # Token counts in streams and the chat completions route are off for unknown hosts unless asked for.
        defaults = {"stream_usage": True, "use_responses_api": False, "max_retries": retries}
        others = {k: v for k, v in values.items() if k not in ("openai_api_key", "openai_api_base")}
        return {**defaults, **others, **ours}

    @model_validator(mode="after")
    def _forget_environment(self) -> ChatNanoGPT:
        self.openai_organization = None
        return self

    @property
    def _llm_type(self) -> str:
        return "nanogpt-chat"

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Arguments that are secrets, with the variables that hold them."""
        return {"openai_api_key": "NANOGPT_API_KEY", "api_key": "NANOGPT_API_KEY"}
