"""LangChain's chat model over NanoGPT, on ``langchain-openai``'s base class."""

from __future__ import annotations

from typing import Any

from langchain_openai.chat_models.base import BaseChatOpenAI
from pydantic import ConfigDict, Field, SecretStr, model_validator

from nanogpt_core.connection import DEFAULT_TIMEOUT, Connection
from nanogpt_core.errors import ConfigurationError
from nanogpt_core.sdk import make_async_client, make_client

__all__ = ["ChatNanoGPT"]

_DEFAULT_RETRIES = 2
# What the base class would build its own clients with.
_UNUSED = ("openai_proxy", "organization", "openai_organization", "default_query", "http_socket_options")


class ChatNanoGPT(BaseChatOpenAI):
    """NanoGPT's chat models in LangChain.

    Takes ``model``, ``api_key``, ``base_url``, ``temperature``, ``max_tokens``, ``timeout``, ``max_retries``,
    ``default_headers``, ``http_client``, ``http_async_client`` and what else ``ChatOpenAI`` takes. Key and base URL
    come from ``NANOGPT_API_KEY``, ``NANO_GPT_API_KEY`` and ``NANOGPT_BASE_URL`` by default; ``OPENAI_*`` variables are
    not read.

    Raises:
        ConfigurationError: No key, or a base URL that cannot be right. It is a ``ValueError``.
    """

    # Pydantic's errors would show the whole input, and the key with it.
    model_config = ConfigDict(hide_input_in_errors=True)

    model_name: str = Field(default="gpt-4o-mini", alias="model")

    def __init__(self, **options: Any) -> None:
        super().__init__(**_connected(options))

    @model_validator(mode="after")
    def _forget_environment(self) -> ChatNanoGPT:
        self.openai_organization = None
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> ChatNanoGPT:
        # Clients are shared by copies.
        memo = {} if memo is None else memo
        names = ("client", "root_client", "async_client", "root_async_client", "http_client", "http_async_client")
        memo.update({id(one): one for one in (getattr(self, name) for name in names)})
        return super().__deepcopy__(memo)

    @property
    def _llm_type(self) -> str:
        return "nanogpt-chat"

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Arguments that are secrets, with the variables that hold them."""
        return {"openai_api_key": "NANOGPT_API_KEY", "api_key": "NANOGPT_API_KEY"}


def _connected(options: dict[str, Any]) -> dict[str, Any]:
    """Return ``options`` with clients of our own: with these in place, the base class makes none from ``OPENAI_*``."""

    def take(*names: str, default: Any = None) -> Any:
        return next((options[name] for name in names if options.get(name) is not None), default)

    unused = [name for name in _UNUSED if options.get(name) is not None]
    if unused:
        raise ConfigurationError(f"{unused[0]} is not supported.", remedy="Pass http_client and http_async_client.")
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
    ours = {
        "api_key": SecretStr(connection.key.get_secret_value()),
        "base_url": connection.base_url,
        "client": client.chat.completions,
        "root_client": client,
        "async_client": async_client.chat.completions,
        "root_async_client": async_client,
        "openai_proxy": None,
        "max_retries": retries,
    }
    # Token counts in streams and the chat completions route are off for unknown hosts unless asked for.
    defaults = {"stream_usage": True, "use_responses_api": False}
    others = {name: value for name, value in options.items() if name not in ("openai_api_key", "openai_api_base")}
    return {**defaults, **others, **ours}
