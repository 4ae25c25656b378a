"""Extensions of Griffe, which reads the docstrings and signatures for the reference.

The Sphinx roles of docstrings become Markdown: a cross-reference if the reference has the object, and code if not. A
paragraph that ends with two colons ends with one, since the indented lines after it are a code block in Markdown too. A
section "Example" gets the name that Griffe knows.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`~?([\w.]+)`")


class SphinxRoles(griffe.Extension):
    """Rewrites each docstring when its object is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            text = _ROLE.sub(lambda match: _reference(match[1], obj), obj.docstring.value)
            text = re.sub(r"^::$", "", text, flags=re.MULTILINE)
            text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)


def _reference(name: str, obj: griffe.Object) -> str:
    shown = name.rpartition(".")[2] if name.startswith("nanogpt_core.") else name
    owner = obj if obj.is_class else obj.parent
    if "." not in name and owner is not None and owner.is_class and name in owner.members:
        name = f"{owner.path}.{name}"
    # Without a page for it, the text is code: "optional" references do not warn.
    return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'


class EmbedderSignature(griffe.Extension):
    """Gives ``Embedder`` the signature that ``help`` shows: all options with their types and defaults."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Take the parameters of the dataclass that holds the options."""
        if pkg.path == "nanogpt_core":
            config = pkg["embeddings.config.EmbedderConfig.__init__"]
            pkg["embeddings.embedder.Embedder.__init__"].parameters = config.parameters
