"""The checks of ``nanogpt doctor``. None of them changes anything, spends money, or shows a secret."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from nanogpt_core._runtime.extras import package_version
from nanogpt_core._runtime.words import counted
from nanogpt_core.cli.exit_codes import message_and_remedy_of
from nanogpt_core.errors import ModelNotFoundError, NanoGPTError
from nanogpt_core.http.endpoint import BASE_URL_VARIABLE, resolve_base_url
from nanogpt_core.http.secrets import KEY_VARIABLES, resolve_key
from nanogpt_core.models.catalog import MODELS

_PACKAGES = ("openai", "httpx", "httpx2", "numpy", "tiktoken", "langchain-core", "llama-index-core", "pyarrow", "redis")
_IGNORED_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")  # read by requests and curl, and not by this package
_SLOW_SECONDS = 3.0


@dataclass(frozen=True)
class Finding:
    """The outcome of one check, in a sentence. The status ``"note"`` is for something to look at."""

    status: Literal["ok", "note", "FAIL"]
    check: str
    message: str
    remedy: str = ""


def check_all(base_url: str | None, cache: Path | None, *, offline: bool) -> Iterator[Finding]:
    """Run every check, and yield each finding as it is known; send nothing if ``offline``."""
    yield from _check("versions", _versions)
    key = list(_check("key", _key))
    yield from key
    way = list(_check("address", lambda: _address(base_url)))
    if not _failed(way):
        way += _check("proxy", lambda: _proxy(base_url))
        way += _check("certificates", lambda: _certificates(base_url))
    yield from way
    yield from _check("token counts", _token_counts)
    yield from _check("rate", _rate)
    if cache is not None:
        yield from _check("cache", lambda: _cache(cache))
    # With a key that no header can have, not even requests without need of a key are sent.
    unusable_key = _failed(key) and bool(_given_keys())
    if offline or _failed(way) or unusable_key:
        yield Finding("note", "service", "Not asked." if offline else "Not asked: no request can be sent.")
        return
    reached = list(_check("service", lambda: _service(base_url)))
    yield from reached
    if not _failed([*reached, *key]):
        yield from _check("account", lambda: _account(base_url))


def _failed(findings: Iterable[Finding]) -> bool:
    return any(finding.status == "FAIL" for finding in findings)


def _check(name: str, run: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of one check; an error of the package is a finding."""
    try:
        yield from run()
    except NanoGPTError as error:
        yield Finding("FAIL", name, *message_and_remedy_of(error))


def _versions() -> Iterator[Finding]:
    found = {name: _version(name) for name in _PACKAGES}
    installed = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    python = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    yield Finding("ok", "versions", f"nanogpt-rag {package_version()}, {python}, {installed}.")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _given_keys() -> list[str]:
    return [name for name in KEY_VARIABLES if os.environ.get(name, "").strip()]


def _key() -> Iterator[Finding]:
    given = _given_keys()
    resolve_key(None)
    if len(given) > 1 and len({os.environ[name].strip() for name in given}) > 1:
        yield Finding("note", "key", f"{' and '.join(given)} hold different keys; {given[0]} is used.")
    else:
        yield Finding("ok", "key", f"{given[0]} is set (its value is not shown).")


def _address(base_url: str | None) -> Iterator[Finding]:
    url = resolve_base_url(base_url)
    if base_url is not None:
        source = "--base-url"
    else:
        source = BASE_URL_VARIABLE if os.environ.get(BASE_URL_VARIABLE, "").strip() else "the default"
    yield Finding("ok", "address", f"{url} ({source}).")


def _proxy(base_url: str | None) -> Iterator[Finding]:
    from nanogpt_core.http.environment import proxy_for

    parts = urlsplit(resolve_base_url(base_url))
    proxy = proxy_for(parts.scheme, parts.hostname or "", parts.port)
    yield Finding("ok", "proxy", f"Requests go through {proxy}." if proxy else "Requests go through no proxy.")


def _certificates(base_url: str | None) -> Iterator[Finding]:
    from nanogpt_core.http.environment import tls_context

    if urlsplit(resolve_base_url(base_url)).scheme == "http":
        yield Finding("ok", "certificates", "None are needed: the address is this machine, without TLS.")
        return
    tls_context()
    used = [f"{name}={os.environ[name]}" for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
    yield Finding("ok", "certificates", f"Those of {' and '.join(used)}." if used else "The default ones.")
    ignored = [name for name in _IGNORED_VARIABLES if os.environ.get(name)]
    if ignored and not used:
        remedy = "If requests fail for a certificate, set SSL_CERT_FILE to the same file."
        verb = "is" if len(ignored) == 1 else "are"
        yield Finding("note", "certificates", f"{' and '.join(ignored)} {verb} set, but not used here.", remedy)


def _token_counts() -> Iterator[Finding]:
    from nanogpt_core.models.tokens import load_encoding

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the finding says the same
        encoding = load_encoding()
    if encoding is None:
        yield Finding(
            "note",
            "token counts",
            "tiktoken's file cl100k_base is not here and cannot be downloaded: token counts and prices are estimates.",
            "Point TIKTOKEN_CACHE_DIR at a folder that has it.",
        )
        return
    folder = os.environ.get("TIKTOKEN_CACHE_DIR")
    yield Finding("ok", "token counts", f"tiktoken's file cl100k_base is there{f', in {folder}' if folder else ''}.")


def _rate() -> Iterator[Finding]:
    from nanogpt_core.http.rate_limiter import DEFAULT_RATE, MAX_DEFAULT_RATE

    yield Finding(
        "ok",
        "rate",
        f"{DEFAULT_RATE:g} requests a second at the start, up to {MAX_DEFAULT_RATE:g} as the service allows; all "
        "threads of a process share it. The service does not tell daily limits of a key beforehand.",
    )


def _cache(file: Path) -> Iterator[Finding]:
    from nanogpt_core.cache.admin import verify_cache

    report = verify_cache(file)
    size = f"{counted(report.entries, 'vector')}, {report.bytes / 1e6:,.1f} MB"
    if report.clean:
        yield Finding("ok", "cache", f"{file}: {size}, all sound.")
        return
    damage = f" {' '.join(report.damage)}" if report.damage else ""
    remedy = "Damaged vectors are embedded again when needed; delete the file if SQLite itself complains."
    yield Finding("FAIL", "cache", f"{file}: {size}; {report.unsound} damaged.{damage}", remedy)


def _service(base_url: str | None) -> Iterator[Finding]:
    from nanogpt_core import list_models

    began = time.perf_counter()
    listed = list_models(base_url=base_url)
    seconds = time.perf_counter() - began
    new, gone = sorted(listed.keys() - MODELS.keys()), sorted(MODELS.keys() - listed.keys())
    differences = [f"{len(names)} {word}" for names, word in ((new, "more"), (gone, "fewer")) if names]
    differ = f" ({' and '.join(differences)} than in the packaged list)" if differences else ""
    message = f"It answered in {seconds:.2f} s, with {counted(len(listed), 'embedding model')}{differ}."
    yield Finding("note" if seconds > _SLOW_SECONDS else "ok", "service", message)


def _account(base_url: str | None) -> Iterator[Finding]:
    from nanogpt_core import fetch_balance

    try:
        found = fetch_balance(base_url=base_url)
    except ModelNotFoundError:
        yield Finding("note", "account", "This address does not tell a balance, so the key was not checked.")
        return
    if found.usd is not None and found.usd <= 0:
        yield Finding("FAIL", "account", f"The key is accepted; the balance is ${found.usd:,.2f}.", "Add to it.")
    else:
        balance = "unknown" if found.usd is None else f"${found.usd:,.2f}"
        yield Finding("ok", "account", f"The key is accepted; the balance is {balance}.")
