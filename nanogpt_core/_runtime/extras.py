"""The installation: its version, the command that adds an extra, and the error for a package that an extra brings."""

from __future__ import annotations

import json
import re
from importlib.metadata import PackageNotFoundError, distribution, version
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

_NAME = "nanogpt-rag"
_CREDENTIALS = re.compile(r"(?<!ssh://)(?<=//)[^/@]*@")  # the user of ssh is no secret


def package_version() -> str:
    """Return the version of this package."""
    try:
        return version(_NAME)
    except PackageNotFoundError:  # the folder of the sources is on the path, and nothing is installed
        return "0+unknown"


def install_command(extra: str) -> str:
    """Return the command that adds an extra to this installation, from its own origin: a folder, a URL or an index."""
    origin = _origin()
    url = _CREDENTIALS.sub("", origin.get("url", ""))
    if "?" in url:  # which may hold a token
        origin, url = {}, ""
    wanted = f"{_NAME}[{extra}]"
    if "dir_info" in origin:
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f'pip install {editable}"{url2pathname(urlsplit(url).path)}[{extra}]"'
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        url = url.replace("file:///", "file://localhost/")  # pip 23 refuses a requirement's URL without a host
        return f'pip install "{wanted} @ {vcs["vcs"]}+{url}@{vcs["commit_id"]}"'
    return f'pip install "{wanted} @ {url}"' if url else f'pip install "{wanted}"'


def _origin() -> dict[str, Any]:
    """Return the origin of this installation as installers record it, by PEP 610; empty if it came from an index."""
    try:
        record = distribution(_NAME).read_text("direct_url.json")
    except PackageNotFoundError:  # not installed, but on the path
        record = None
    return json.loads(record) if record else {}


def missing_extra(feature: str, extra: str, error: ImportError) -> ImportError:
    """Return the error for an import that fails since a package is missing, or has another version than the extra's."""
    reason, remedy = str(error).rstrip("."), f"Run: {install_command(extra)}"
    if isinstance(error, ModuleNotFoundError):
        return ModuleNotFoundError(f"{feature} needs {error.name}, which is not installed. {remedy}", name=error.name)
    if error.name is None:  # of a library that is not Python's, for example
        return ImportError(f"{feature} cannot be imported: {reason}.")
    return ImportError(f"{feature} needs another version of {error.name}: {reason}. {remedy}", name=error.name)
