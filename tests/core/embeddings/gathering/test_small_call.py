"""Small calls: those of objects with other options for requests do not share a request."""

import pytest

from nanogpt_core import Embedder, ModelInfo
from nanogpt_core.embeddings.config import EmbedderOptions
from nanogpt_core.http.sdk import httpx

OPTIONS = {"api_key": "sk-nano-one", "base_url": "https://example.com/api/v1"}


class NoLimits:
    """Limits that several processes share: these admit every request."""

    may_block = False
    budget_usd = None

    def admit(self, *_):
        """Do nothing."""

    check = reserve = confirm = release = settle = on_error = add_saving = admit


# Another value of each option. Those that affect a request, its answer or its retries have queues of their own.
APART = {
    "model": "BAAI/bge-m3",
    "api_key": "sk-nano-another",
    "base_url": "https://example.org/api/v1",
    "model_info": ModelInfo("text-embedding-3-small", usd_per_million_tokens=1.0),
    "dimensions": 64,
    "user": "someone",
    "on_overflow": "split",
    "batch_size": 3,
    "max_concurrency": 2,
    "max_retries": 1,
    "timeout": 7.0,
    "limits": NoLimits(),
    "default_headers": {"X-Team": "search"},
}
# The text has its instruction already, and each call keeps to its own rate and budget. The rest is not for requests.
TOGETHER = {
    "query_instruction": "find: ",
    "coalesce": False,
    "requests_per_second": 5.0,
    "deadline": 70.0,
    "cache": "vectors.sqlite",
    "budget_usd": 2.0,
    "progress": True,
    "on_request": print,
    "allow_insecure_http": True,
}
CLIENTS = {"http_client": httpx.Client, "http_async_client": httpx.AsyncClient}


def test_each_option_says_if_it_keeps_calls_apart():
    missing = {"model", *EmbedderOptions.__annotations__} ^ {*APART, *TOGETHER, *CLIENTS}
    assert not missing, f"add {missing} to APART, and to the key of GatheringDispatcher.gatherer; or to TOGETHER"


def queue(**options):
    return Embedder(**{**OPTIONS, **options})._pipeline.gathering_dispatcher.gatherer()


@pytest.mark.parametrize(("name", "value"), [*APART.items(), *TOGETHER.items()], ids=lambda value: str(value)[:20])
def test_calls_share_requests_only_if_the_options_for_requests_are_equal(name, value, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert (queue() is queue(**{name: value})) == (name in TOGETHER)


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "no_proxy"])
def test_calls_share_requests_only_if_they_go_through_the_same_proxy(variable, monkeypatch):
    direct = queue()
    monkeypatch.setenv(variable, "proxy.example")
    through = queue()
    assert through is not direct
    assert queue() is through


@pytest.mark.parametrize("name", CLIENTS)
def test_calls_share_requests_only_if_they_use_the_same_client(name):
    client = CLIENTS[name]()
    assert queue() is not queue(**{name: client})
    assert queue(**{name: client}) is queue(**{name: client})
