"""An extension of Griffe: the docstrings' Sphinx roles become Markdown, as mkdocstrings renders it.

```:class:`nanogpt_core.Embedder` ``` becomes a cross-reference if the reference has the object, and code if not. A
paragraph that ends with ``::`` ends with a colon, since the indented lines after it are a code block in Markdown too.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`~?([\w.]+)`")


class SphinxRoles(griffe.Extension):
    """Rewrites each docstring once, when its object is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring:
            text = _ROLE.sub(lambda match: _reference(match[1], obj), obj.docstring.value)
            obj.docstring.value = re.sub(r"::$", ":", re.sub(r"^::$", "", text, flags=re.MULTILINE), flags=re.MULTILINE)


def _reference(name: str, obj: griffe.Object) -> str:
    shown = name.rpartition(".")[2] if name.startswith("nanogpt_core.") else name
    owner = obj if obj.is_class else obj.parent
    if "." not in name and owner is not None and owner.is_class and name in owner.members:
        name = f"{owner.path}.{name}"
    # Without a page for it, the text is code: "optional" references do not warn.
    return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'
