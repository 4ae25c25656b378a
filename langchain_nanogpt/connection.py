"""Connection of LangChain's chat model: the session and the SDK's clients, made from the model's options."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from nanogpt_core.chat.client import DEFAULT_RETRIES, ChatSession, make_async_chat_client, make_chat_client
from nanogpt_core.http.endpoint import CHAT_TIMEOUT, Endpoint

__all__ = ["connect", "make_clients", "secret_of"]


def secret_of(endpoint: Endpoint) -> SecretStr:
    """Return the endpoint's key as LangChain's classes hold keys; empty if a pickle has left it out."""
    return SecretStr(endpoint.key.reveal_or_empty() if endpoint.key else "")


def make_clients(session: ChatSession, http_client: Any = None, http_async_client: Any = None) -> dict[str, Any]:
    """Return the SDK's clients, by the names of the fields of LangChain's class."""
    client = make_chat_client(session, http_client)
    async_client = make_async_chat_client(session, http_async_client)
    return {
        "client": client.chat.completions,
        "root_client": client,
        "async_client": async_client.chat.completions,
        "root_async_client": async_client,
    }


def connect(options: dict[str, Any]) -> tuple[ChatSession, dict[str, Any]]:
    """Return ``options`` with clients of our own: with these in place, the base class makes none from ``OPENAI_*``."""

    def take(*names: str, default: Any = None) -> Any:
        return next((options[name] for name in names if options.get(name) is not None), default)

    endpoint = Endpoint.resolve(
        api_key=take("api_key", "openai_api_key"),
        base_url=take("base_url", "openai_api_base"),
        timeout=take("timeout", "request_timeout", default=CHAT_TIMEOUT),
        headers=take("default_headers"),
        allow_insecure_http=take("allow_insecure_http", default=False),
    )
    retries = take("max_retries", default=DEFAULT_RETRIES)
    rate = take("requests_per_second")
    session = ChatSession(
        endpoint,
        max_retries=retries,
        requests_per_second=rate,
        limits=take("limits"),
        on_request=take("on_request"),
    )
    ours = {
        "api_key": secret_of(endpoint),
        "base_url": endpoint.base_url,
        "timeout": endpoint.timeout,
        "max_retries": retries,
        "requests_per_second": rate,
        "openai_proxy": None,
        **make_clients(session, take("http_client"), take("http_async_client")),
    }
    aliases = ("openai_api_key", "openai_api_base", "request_timeout")
    return session, {**{name: value for name, value in options.items() if name not in aliases}, **ours}
