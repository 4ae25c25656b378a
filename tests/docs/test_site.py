"""Documentation site: it builds strictly, loads nothing from other hosts, and covers the public API."""

import importlib
import json
import re
import shlex
import shutil
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from nanogpt_core import errors

pytest.importorskip("mkdocs", reason="the docs extra is not installed")
pytestmark = pytest.mark.xdist_group("site")

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


class Resources(HTMLParser):
    """Addresses that a browser loads with a page."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in {"script", "img", "iframe", "source"} and values.get("src"):
            self.found.append(values["src"])
        if tag == "link" and values.get("rel") not in {"canonical", "next", "prev"}:
            self.found.append(values.get("href") or "")


def test_strict_build_passes_and_loads_nothing_from_other_hosts(site):
    pages = [*site.rglob("*.html")]
    assert len(pages) > 40
    found = {address for page in pages for address in Resources(page).found}
    assert found
    assert [address for address in found if address.startswith(("http:", "https:", "//"))] == []
    styles = "".join(style.read_text(encoding="utf-8") for style in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)", styles) == []


def test_diagrams_need_no_script_of_another_host(site):
    # The theme would load Mermaid from a content delivery network.
    assert [page for page in site.rglob("*.html") if 'class="mermaid"' in page.read_text(encoding="utf-8")] == []


def test_search_ranks_pages_for_maintainers_below_guides(site):
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    lowered = {entry["location"].partition("#")[0] for entry in entries if entry.get("boost", 1) < 1}
    assert "architecture.html" in lowered
    assert "adr/0010-rate-limiter.html" in lowered
    assert "guides/rate_limits.html" not in lowered


def test_roles_of_docstrings_are_links(site):
    html = (site / "reference" / "embedder.html").read_text(encoding="utf-8")
    assert re.search(r'<a [^>]*href="models\.html#nanogpt_core\.list_models"[^>]*><code>list_models</code></a>', html)
    text = "".join(page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html"))
    assert re.findall(r":(?:class|meth|func|data|mod):.{0,40}", text) == []


def test_examples_of_docstrings_are_code(site):
    for page in (site / "reference").glob("*.html"):
        html = page.read_text(encoding="utf-8")
        assert "<blockquote>" not in html, page.name  # ">>>" outside of a code block


@pytest.fixture
def project(tmp_path, build_site):
    """Return a function that builds a site of one page, with the settings of ours."""
    shutil.copytree(ROOT / ".ci", tmp_path / ".ci", ignore=shutil.ignore_patterns("__pycache__"))
    lines = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    validation = re.search(r"^validation:\n(?:  .*\n)+", lines, re.MULTILINE)[0]
    for name in ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        (tmp_path / name).write_text(f"# {name}\n", encoding="utf-8")
    (tmp_path / "code.py").write_text("answer = 42\n", encoding="utf-8")
    (tmp_path / "notes.md").write_text("# Notes\n\n[back](docs/index.md#title) [code](code.py)\n", encoding="utf-8")
    (tmp_path / "docs").mkdir()

    def run(text, nav="index.md"):
        config = f"site_name: x\nhooks: [.ci/site_hooks.py]\nplugins: []\nnav: [{nav}]\n{validation}"
        (tmp_path / "mkdocs.yml").write_text(config, encoding="utf-8")
        (tmp_path / "docs" / "index.md").write_text(f"# Title\n\n{text}\n", encoding="utf-8")
        return *build_site(tmp_path / "mkdocs.yml", tmp_path / "site"), tmp_path / "site"

    return run


def test_links_to_files_outside_docs_get_pages_of_the_site(project):
    status, output, site = project("[notes](../notes.md#notes)")
    assert status == 0, output
    assert 'href="repository/notes/#notes"' in (site / "index.html").read_text(encoding="utf-8")
    notes = (site / "repository" / "notes" / "index.html").read_text(encoding="utf-8")
    assert 'href="../../#title"' in notes
    assert 'href="../code.py/"' in notes
    assert "answer" in (site / "repository" / "code.py" / "index.html").read_text(encoding="utf-8")


def test_strict_build_refuses_broken_links_and_pages_without_navigation(project):
    links = ["missing.md", "../missing.py", "#missing", "../notes.md#missing", "/index.md"]
    status, output, _ = project(" ".join(f"[link]({link})" for link in links), "repository/notes.md")
    assert status == 1, output
    for broken in (*links[:3], "repository/notes.md#missing", "/index.md"):
        assert re.search(rf"^WARNING .* link '{re.escape(broken)}'", output, re.MULTILINE), broken
    assert re.search(r'^WARNING .* not included in the "nav" configuration:\n  - index\.md$', output, re.MULTILINE)


@pytest.mark.parametrize(
    ("package", "page"),
    [("nanogpt_core", "*"), ("langchain_nanogpt", "langchain"), ("llama_index_nanogpt", "llama_index")],
)
def test_every_public_name_is_in_the_reference(package, page):
    text = "".join(file.read_text(encoding="utf-8") for file in (DOCS / "reference").glob(f"{page}.md"))
    names = re.findall(rf"^::: {package}\.(\w+)$", text, re.MULTILINE)
    members = re.findall(r"members: \[(.+)\]", text)
    names += [name for line in members for name in line.split(", ")] if package == "nanogpt_core" else []
    assert set(importlib.import_module(package).__all__) - {"__version__"} <= set(names)


def test_guide_to_errors_names_every_class():
    guide = (DOCS / "guides" / "errors.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", guide, re.MULTILINE)
    assert sorted(rows) == sorted(set(errors.__all__))
    llama_index = (ROOT / "llama_index_nanogpt" / "structured.py").read_text(encoding="utf-8")
    for name in re.findall(r"^class (\w+Error)\(", llama_index, re.MULTILINE):
        assert f"LlamaIndex: `{name}`" in guide


def test_guide_to_errors_says_which_are_retried():
    guide = (DOCS / "guides" / "errors.md").read_text(encoding="utf-8")
    retried = re.findall(r"^\| `(\w+)` \|[^|]*\| (yes|no)\b", guide, re.MULTILINE)
    assert {word for _, word in retried} == {"yes", "no"}
    for name, word in retried:
        assert getattr(errors, name).transient == (word == "yes"), name


def test_home_page_names_every_extra_for_users():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", project, re.DOTALL | re.MULTILINE)[1]
    for_this_repository = {"compat", "demo", "dev", "docs", "notebooks", "stores", "web"}
    table = (DOCS / "index.md").read_text(encoding="utf-8").split("## Extras")[1]
    named = {
        name for line in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for name in re.findall(r"`([\w-]+)`", line)
    }
    assert named == set(re.findall(r"^([\w-]+) = \[", extras, re.MULTILINE)) - for_this_repository


# -- commands --------------------------------------------------------------------------------------------------------

CONSOLE = re.compile(r"^```console\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
COMMANDS = [
    pytest.param(line[1:].partition("  #")[0].strip(), id=f"{page.relative_to(ROOT).as_posix()}: {line[2:42]}")
    for page in PAGES
    for block in CONSOLE.findall(page.read_text(encoding="utf-8"))
    for line in block.splitlines()
    if line.startswith(("$ ", "> "))
]
VARIABLES = {"NANOGPT_API_KEY", "NANOGPT_BASE_URL", "HTTPS_PROXY", "NO_PROXY", "SSL_CERT_FILE"}


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_a_page_exists(command):
    # Up to a pipe or a redirection.
    words = shlex.split(re.split(r" (?:[|>]|&&|;) ", command.replace("\\", "/"))[0], comments=True)
    program = words[0].rpartition("/")[2]
    CHECKS[program](words[1:])


def check_make(words):
    targets = re.findall(r"^([\w$(). /-]+):(?!=)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    known = {word.replace("$(VENV)", ".venv") for line in targets for word in line.split()}
    assert {word for word in words if "=" not in word} <= known


def check_export(words):
    assert words[0].partition("=")[0] in VARIABLES


def check_pip(words):
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = re.search(r"^\[project.optional-dependencies\]\n(.*?)^\[", project, re.DOTALL | re.MULTILINE)[1]
    wanted = re.search(r"(?:nanogpt-rag|\.)\[([\w,-]+)\]", " ".join(words))
    assert wanted is None or {*wanted[1].split(",")} <= {*re.findall(r"^([\w-]+) = ", extras, re.MULTILINE)}


def check_python(words):
    if words[0] != "-m":
        assert (ROOT / words[0]).is_file()
    elif words[1] == "nanogpt_core.sandbox":
        from nanogpt_core.sandbox.__main__ import make_parser

        make_parser().parse_args(words[2:])
    elif words[1] == "pip":
        check_pip(words[2:])
    else:
        assert find_spec(words[1]) is not None


def check_nanogpt(words):
    pytest.importorskip("cyclopts", reason="the cli extra is not installed")
    from nanogpt_core.cli.app import make_app

    make_app().parse_args(words, exit_on_error=False, print_error=False)


def check_llm(words):
    # Commands of another project, with this one as its plugin.
    assert words[0] in {"keys", "embed-models", "embed-multi", "similar"}


CHECKS = {
    # Programs of other projects.
    **dict.fromkeys(("gunicorn", "nohup", "pre-commit", "redis-server", "tail", "uvicorn"), lambda _: None),
    "export": check_export,
    "llm": check_llm,
    "make": check_make,
    "nanogpt": check_nanogpt,
    "pip": check_pip,
    "py": check_python,
    "python": check_python,
}


@pytest.mark.parametrize("page", ["langchain", "llama_index", "plain"])
def test_start_page_shows_the_variables_that_the_sandbox_prints(page):
    from nanogpt_core.sandbox import DEFAULT_API_KEY
    from nanogpt_core.sandbox.__main__ import DEFAULT_PORT

    text = (DOCS / "start" / f"{page}.md").read_text(encoding="utf-8")
    assert f"$ export NANOGPT_BASE_URL=http://127.0.0.1:{DEFAULT_PORT}/api/v1\n" in text
    assert f"$ export NANOGPT_API_KEY={DEFAULT_API_KEY}\n" in text
