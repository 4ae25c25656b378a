"""The clients, made with their own defaults except for address, key, time limit and a fault's own options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.faults.gathered import GATHERED, aembed_gathered, embed_gathered
from benchmarks.faults.vectors import KEY, MODEL

OURS = ("core", "LangChain", "LlamaIndex")
PEERS = ("OpenAI SDK", "langchain-openai", "LlamaIndex OpenAI")
OWN_COLUMNS = (*OURS, GATHERED)
CLIENTS = (*OWN_COLUMNS, *PEERS)


_TIMEOUT = 10.0
_OWN_OPTIONS = ("max_concurrency", "cache", "on_overflow")


class Client:
    """One client, under the same names for all.

    Attributes:
        embed: Embeds texts.
        aembed: Embeds texts in an event loop.
        used: The object of the client's own class.
        copied: Returns a client with a copy of the object, made for another model.
    """

    def __init__(
        self,
        embed: Callable[[list[str]], Any],
        aembed: Callable[[list[str]], Any],
        used: Any,
        copied: Callable[[str], Client] | None = None,
    ) -> None:
        self.embed = embed
        self.aembed = aembed
        self.used = used
        self.copied = copied


def make(name: str, url: str, model: str = MODEL, **settings: Any) -> Client:
    """Make a client.

    Args:
        name: One of :data:`CLIENTS`.
        url: The base URL.
        model: The model's name.
        **settings: ``api_key``, ``timeout``, ``default_headers``, ``batch_size``; for this project's clients also
            ``max_concurrency``, ``cache`` and ``on_overflow``. None stands for the client's default.
    """
    given = {"api_key": KEY, "timeout": _TIMEOUT, **settings}
    options = {option: value for option, value in given.items() if value is not None}
    if name in OWN_COLUMNS:
        return _OWN[name](url, model, {"max_concurrency": 2, **options})
    return _OTHERS[name](url, model, {o: v for o, v in options.items() if o not in _OWN_OPTIONS})


def _core(url: str, model: str, options: dict[str, Any]) -> Client:
    from nanogpt_core import Embedder

    embedder = Embedder(model, base_url=url, **options)
    return Client(embedder.embed, embedder.aembed, embedder)


def _gathered(url: str, model: str, options: dict[str, Any]) -> Client:
    from nanogpt_core import Embedder

    # With one slot, all calls after the first share a request.
    embedder = Embedder(model, base_url=url, **{**options, "max_concurrency": 1})
    embed, aembed = partial(embed_gathered, embedder.embed, url), partial(aembed_gathered, embedder.aembed, url)
    return Client(embed, aembed, embedder)


def _langchain(url: str, model: str, options: dict[str, Any]) -> Client:
    from langchain_nanogpt import NanoGPTEmbeddings

    return _of_langchain(NanoGPTEmbeddings(model, base_url=url, **options))


def _llama_index(url: str, model: str, options: dict[str, Any]) -> Client:
    from llama_index_nanogpt import NanoGPTEmbedding

    return _of_llama_index(NanoGPTEmbedding(model, base_url=url, **options))


def _sdk(url: str, model: str, options: dict[str, Any]) -> Client:
    import openai

    size = options.pop("batch_size", 2048)
    client = openai.OpenAI(base_url=url, **options)
    later = openai.AsyncOpenAI(base_url=url, **options)

    def embed(texts: list[str]) -> list[list[float]]:
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        replies = [client.embeddings.create(model=model, input=part) for part in parts]
        return [item.embedding for reply in replies for item in reply.data]

    async def aembed(texts: list[str]) -> list[list[float]]:
        reply = await later.embeddings.create(model=model, input=texts)
        return [item.embedding for item in reply.data]

    return Client(embed, aembed, client)


def _langchain_openai(url: str, model: str, options: dict[str, Any]) -> Client:
    from langchain_openai import OpenAIEmbeddings

    size = options.pop("batch_size", 1000)
    # By default it sends OpenAI's token numbers in the place of texts, which few other services take.
    return _of_langchain(
        OpenAIEmbeddings(model=model, base_url=url, chunk_size=size, check_embedding_ctx_length=False, **options)
    )


def _llama_index_openai(url: str, model: str, options: dict[str, Any]) -> Client:
    from llama_index.embeddings.openai import OpenAIEmbedding

    size = options.pop("batch_size", 100)
    return _of_llama_index(OpenAIEmbedding(model=model, api_base=url, embed_batch_size=size, **options))


def _of_langchain(made: Any) -> Client:
    def copied(model: str) -> Client:
        return _of_langchain(made.model_copy(update={"model": model}))

    return Client(made.embed_documents, made.aembed_documents, made, copied)


def _of_llama_index(made: Any) -> Client:
    def copied(model: str) -> Client:
        return _of_llama_index(made.model_copy(update={"model_name": model}))

    return Client(made.get_text_embedding_batch, made.aget_text_embedding_batch, made, copied)


_Maker = Callable[[str, str, dict[str, Any]], Client]
_OWN: dict[str, _Maker] = dict(zip(OWN_COLUMNS, (_core, _langchain, _llama_index, _gathered), strict=True))
_OTHERS: dict[str, _Maker] = dict(zip(PEERS, (_sdk, _langchain_openai, _llama_index_openai), strict=True))
