"""Fixtures of all tests: a sandbox over real HTTP, a clean environment, and no other network."""

import contextlib
import gc
import os
import signal
import socket
import sys
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import certifi
import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings
from pytest_socket import SocketConnectBlockedError

import warm_process
from length import usual_or_long

# A deadline would measure the machine, not the code. Slow examples of real files and servers are no fault.
settings.register_profile(
    "nanogpt", deadline=None, max_examples=usual_or_long(30, 400), suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("nanogpt")

LOOPBACK = {"127.0.0.1", "::1", "localhost"}
VARIABLES = ("NANOGPT_", "NANO_GPT_", "OPENAI_", "LANGSMITH_", "LANGCHAIN_", "TIKTOKEN_", "HTTP_PROXY", "HTTPS_PROXY")

REAL = {"api_key": "API_KEY", "base_url": "BASE_URL", "model": "CHAT_MODEL"}


# Variables of OpenAI's SDK and of the frameworks' packages for it. None of them is meant for NanoGPT.
FOREIGN = {
    "OPENAI_API_KEY": "sk-leaked",
    "OPENAI_ADMIN_KEY": "sk-leaked-admin",
    "OPENAI_ORG_ID": "org-leaked",
    "OPENAI_ORGANIZATION": "org-leaked",
    "OPENAI_PROJECT_ID": "proj-leaked",
    "OPENAI_WEBHOOK_SECRET": "hook-leaked",
    "OPENAI_BASE_URL": "http://127.0.0.1:9/leaked",
    "OPENAI_API_BASE": "http://127.0.0.1:9/leaked",
    "OPENAI_API_VERSION": "leaked",
    "OPENAI_PROXY": "http://127.0.0.1:9/leaked",
    "OPENAI_CUSTOM_HEADERS": "X-Leaked: leaked",
}


def _packaged_vocabulary() -> str | None:
    # LlamaIndex ships tiktoken's cl100k_base; without it the counts of these tests are bounds.
    spec = find_spec("llama_index.core") if find_spec("llama_index") else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "_static" / "tiktoken_cache"
    return str(folder) if folder.is_dir() else None


def _keep_bytecode(config: pytest.Config) -> None:
    # If Python writes no bytecode, as in many containers, each process that the tests start would compile a
    # framework anew. It is kept with pytest's own files, and in no other folder.
    if hasattr(config, "cache") and os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(config.cache.mkdir("bytecode"))
        sys.dont_write_bytecode = False


def _let_interrupt() -> None:
    # A shell lets background processes ignore Ctrl-C, and the processes that the tests start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _refuse_other_hosts() -> None:
    # pytest-socket guards connect(); the package's own sync connections use connect_ex().
    connect_ex = socket.socket.connect_ex

    def guarded(self, address):
        if self.family in {socket.AF_INET, socket.AF_INET6} and address[0] not in LOOPBACK:
            raise SocketConnectBlockedError(sorted(LOOPBACK), address[0])
        return connect_ex(self, address)

    socket.socket.connect_ex = guarded


def _leave_contexts_of_other_threads() -> None:
    # On Python 3.10, pytest-asyncio's Runner replaces contextvars.copy_context() in all threads while it makes a task.
    # An event loop in another thread that then sets a timer gives it the context of the test, and two threads cannot
    # be in one context: the timer is lost, and a sandbox that waits for it never stops:
    # docs/adr/0095-contexts-of-other-threads-on-python-3-10.md.
    if sys.version_info < (3, 11):
        from backports.asyncio.runner import runner

        runner._patch_object = lambda *_: contextlib.nullcontext()


def pytest_configure(config: pytest.Config) -> None:
    _keep_bytecode(config)
    _let_interrupt()
    _leave_contexts_of_other_threads()
    # For the few tests that use the real service, if there is a key. It is removed from the environment, and a worker
    # of pytest-xdist starts with that environment.
    given = {name: os.environ.get(f"NANOGPT_{variable}") for name, variable in REAL.items()}
    real_service = {name: value for name, value in given.items() if value}
    config.real_service = getattr(config, "workerinput", {}).get("real_service", real_service)
    if "api_key" not in config.real_service:
        _refuse_other_hosts()
    for name in list(os.environ):
        if name.upper().startswith(VARIABLES):
            del os.environ[name]
    vocabulary = _packaged_vocabulary()
    if vocabulary:
        os.environ["TIKTOKEN_CACHE_DIR"] = vocabulary


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:  # noqa: ARG001 - the hook's argument
    """Freeze what collection imports, and look for garbage only after it.

    Collecting garbage among all modules of both frameworks took a fifth of the tests' time.
    """
    gc.disable()
    result = yield
    gc.collect()
    gc.freeze()
    gc.enable()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:  # noqa: ARG001 - the hook's argument
    """Freeze what a test has imported, as after collection, if it is more than a few modules.

    Not in a fixture: objects of the test, which are still alive then, would never be collected.
    """
    before = len(sys.modules)
    result = yield
    if len(sys.modules) > before + 50:
        gc.collect()
        gc.freeze()
    return result


def pytest_collection_finish(session: pytest.Session) -> None:
    """Check that groups of tests stay together."""
    if getattr(session.config.option, "loadgroup", False):
        grouped = [item for item in session.items if item.get_closest_marker("xdist_group")]
        if not all("@" in item.nodeid for item in grouped):
            raise pytest.UsageError("Groups of pytest-xdist have no effect with this version of pytest.")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Hand the real service's key to a worker of pytest-xdist."""
    node.workerinput["real_service"] = node.config.real_service


@pytest.fixture(scope="session", autouse=True)
def _few_authorities(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave one certificate authority: each HTTP client loads all of them in 30 ms, and tests with TLS have their own.

    The real service, which some tests use if there is a key, has a certificate of another one.
    """
    if "api_key" in pytestconfig.real_service:
        yield
        return
    first, end, _ = Path(certifi.where()).read_text(encoding="utf-8").partition("-----END CERTIFICATE-----")
    one = tmp_path_factory.mktemp("tls") / "one.pem"
    one.write_text(first + end, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(one))
        yield


@pytest.fixture(autouse=True)
def _forget_hosts() -> Iterator[None]:
    """Forget limits and live lists of hosts after each test: the next server may get the same port."""
    yield
    for module, name in (("embeddings.planning", "_hosts"), ("models.listing", "_live_lists")):
        if loaded := sys.modules.get(f"nanogpt_core.{module}"):
            getattr(loaded, name).clear()


@pytest.fixture(scope="session")
def shared_sandbox() -> Iterator[object]:
    """One sandbox for the whole run, for tests that do not read its request log."""
    sandbox = pytest.importorskip("nanogpt_core.sandbox", reason="the sandbox extra is not installed")
    with sandbox.Sandbox() as running:
        yield running


@pytest.fixture
def sandbox(shared_sandbox):
    """The shared sandbox with an empty log and script, also after a test that failed before it used its faults."""
    shared_sandbox.reset()
    yield shared_sandbox
    shared_sandbox.reset()


@pytest.fixture(scope="session")
def _sandbox_for_scripts() -> Iterator[object]:
    # Starting and stopping a server takes 0.2 s, which hundreds of tests would spend.
    sandbox = pytest.importorskip("nanogpt_core.sandbox", reason="the sandbox extra is not installed")
    with sandbox.Sandbox() as running:
        yield running


@pytest.fixture
def fresh_sandbox(_sandbox_for_scripts):
    """A sandbox for scripts of replies, with an empty log and script.

    It has a key of its own for each test: rate limits and pauses are shared by all objects with the same key.
    """
    sandbox = _sandbox_for_scripts
    sandbox.config.api_key = f"sk-nano-{uuid.uuid4().hex}"
    sandbox.reset()
    return sandbox


@pytest.fixture
def options(sandbox) -> dict[str, str]:
    """Key and base URL of the sandbox, as options of every class."""
    return {"api_key": sandbox.api_key, "base_url": sandbox.base_url}


@pytest.fixture(params=["sync", "async"])
def call(request):
    """Return a function that calls a method by its sync name, once sync and once async.

    Each blocking call on the event loop raises an error, unless the test has the marker ``may_block``.
    """
    may_block = request.node.get_closest_marker("may_block") is not None

    async def run(target, method, *args, **kwargs):
        if request.param == "sync":
            return getattr(target, method)(*args, **kwargs)
        with contextlib.nullcontext() if may_block else blockbuster_ctx():
            return await getattr(target, f"a{method}")(*args, **kwargs)

    run.kind = request.param
    return run


@pytest.fixture
def foreign_environment(monkeypatch):
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def nothing_leaked(sandbox):
    """Return a check that requests were sent with our key and without any value of the foreign environment."""

    def check(count):
        assert len(sandbox.requests) == count
        for request in sandbox.requests:
            assert request.headers["authorization"] == f"Bearer {sandbox.api_key}"
            assert "leaked" not in f"{request.headers} {request.body} {request.path}".lower()
            assert not [name for name in request.headers if name.startswith("openai-")]

    return check


@pytest.fixture(scope="session")
def warm():
    """A process that has imported the packages of earlier programs. Its tests share an xdist group."""
    process = warm_process.WarmProcess()
    yield process
    process.close()


class Telemetry:
    """Spans and measurements that OpenTelemetry's SDK has recorded, of all instrumentation."""

    def __init__(self) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracer_provider, self.meter_provider = TracerProvider(), MeterProvider([self._reader])
        self.processor = SimpleSpanProcessor(self._exporter)
        self.tracer_provider.add_span_processor(self.processor)

    def span(self, name="app"):
        """Return a context manager that makes a span the current one."""
        return self.tracer_provider.get_tracer("app").start_as_current_span(name)

    def clear(self):
        """Forget all spans."""
        self._exporter.clear()

    @property
    def spans(self):
        """The finished spans, without those of :meth:`span`."""
        return [span for span in self._exporter.get_finished_spans() if span.instrumentation_scope.name != "app"]

    @property
    def app_spans(self):
        """The finished spans of :meth:`span`, by name."""
        spans = self._exporter.get_finished_spans()
        return {span.name: span for span in spans if span.instrumentation_scope.name == "app"}

    def points(self, name):
        """Return the data points of a metric."""
        data = self._reader.get_metrics_data()
        metrics = [
            metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


@pytest.fixture
def telemetry(monkeypatch):
    """OpenTelemetry, set up for one test: its own functions for this allow it only once in a process."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import metrics, trace

    recorded = Telemetry()
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: recorded.tracer_provider)
    monkeypatch.setattr(metrics, "get_meter_provider", lambda: recorded.meter_provider)
    return recorded
