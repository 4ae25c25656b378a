"""Hooks of MkDocs: links from pages to files of the repository outside ``docs/`` work in the site too.

The pages are read on a code host as well, so their links are relative paths. A file outside ``docs/`` that a page links
to gets a page of its own below ``repository/``: Markdown as it is, other text in a code block. A link to a missing file
stays as it is, and the strict build fails.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

_FOLDER = "repository"
_IN_NAVIGATION = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
_LINK = re.compile(r"(\]\()(?![a-z]+:|#|/)([^)#\s]+)((?:#[^)\s]*)?\))")
_FOR_MAINTAINERS = ("adr/", "architecture.md")
_MAINTAINERS_BOOST = 0.1  # of the rank of other pages in the results of a search
_FENCE = re.compile(r"^(`{3,}).*?^\1[ ]*$", re.DOTALL | re.MULTILINE)
_LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml", ".jsonl": "json"}
_IMAGES = {".svg", ".png"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each file outside ``docs/`` that a page links to, directly or through other such files."""
    root, docs = _folders(config)
    todo = [root / name for name in _IN_NAVIGATION]
    for file in files.documentation_pages():
        todo += _outside(docs / file.src_uri, root, docs)
    seen: set[Path] = set()
    while todo:
        path = todo.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        content = path.read_bytes() if path.suffix in _IMAGES else _page(path, root)
        files.append(File.generated(config, _uri(path, root), content=content, inclusion=InclusionLevel.NOT_IN_NAV))
        if path.suffix == ".md":
            todo += _outside(path, root, docs)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Point the links between ``docs/`` and the rest of the repository at the pages of the site."""
    root, docs = _folders(config)
    source = page.file.src_uri
    if source.startswith(_FOR_MAINTAINERS):
        page.meta.setdefault("search", {"boost": _MAINTAINERS_BOOST})
    path = root / source.removeprefix(f"{_FOLDER}/") if source.startswith(f"{_FOLDER}/") else docs / source
    if not path.is_file():  # the page of a file that is not Markdown
        return markdown

    def replace(match: re.Match[str]) -> str:
        target = _resolve(path, match[2])
        if not target.is_file():
            return match[0]
        uri = target.relative_to(docs).as_posix() if target.is_relative_to(docs) else _uri(target, root)
        return match[1] + posixpath.relpath(uri, posixpath.dirname(source) or ".") + match[3]

    return _LINK.sub(replace, markdown)


def _folders(config: MkDocsConfig) -> tuple[Path, Path]:
    return Path(config.config_file_path).parent, Path(config.docs_dir)


def _outside(page: Path, root: Path, docs: Path) -> Iterator[Path]:
    """Yield the files of the repository outside ``docs/`` that a page links to."""
    for match in _LINK.finditer(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        target = _resolve(page, match[2])
        if target.is_relative_to(root) and not target.is_relative_to(docs):
            yield target


def _resolve(page: Path, link: str) -> Path:
    return Path(os.path.normpath(page.parent / link))


def _uri(path: Path, root: Path) -> str:
    is_shown_as_it_is = path.suffix in {".md", *_IMAGES}
    return f"{_FOLDER}/{path.relative_to(root).as_posix()}" + ("" if is_shown_as_it_is else ".md")


def _page(path: Path, root: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".md":
        title = path.relative_to(root).as_posix()
        text = f"# {title}\n\n````{_LANGUAGES.get(path.suffix, 'text')}\n{text}````\n"
    # Sources and raw tables would fill the results of a search.
    return f"---\nsearch:\n  exclude: true\n---\n\n{text}"
