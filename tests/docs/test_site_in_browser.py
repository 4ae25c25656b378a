"""Documentation site in a real browser: nothing from other hosts, no overflow, contrast, and a search that finds."""

import os
import re
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.xdist_group("site"),  # one build of the site
    pytest.mark.skipif(
        not CHROMIUM, reason="Chromium is not installed; on Debian and Ubuntu: apt-get install chromium"
    ),
]
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu"]
GUARD = 60_000  # milliseconds
PAGES = ("index", "guides/errors", "reference/models", "reference/embedder")
# Words that a newcomer types, and the pages with the answer.
QUESTIONS = {
    "cap spending": "guides/cache_and_budget",
    "cost per user": "guides/tracing_and_costs",
    "ingest stopped": "guides/ingest",
    "resume after kill": "guides/ingest",
    "proxy certificate": "guides/network",
    "test without key": "sandbox guides/testing",
    "model for German": "guides/models",
    "several processes one key": "guides/rate_limits",
    "256 dimensions": "guides/models",
    "stream answer citations": "guides/answers",
    "text too long": "guides/long_texts",
    "429": "guides/errors",
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium requires it for root
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *root], timeout=2 * GUARD)
        yield browser
        browser.close()


@pytest.fixture
def open_window(browser, address):
    """Return a function that opens a window; at the end, every request must have gone to the site and succeeded."""
    foreign, failed, contexts = [], [], []

    def check(request):
        if not request.url.startswith((address, "data:", "blob:")):
            foreign.append(request.url)

    def open_window(width=1280, scheme="light"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.set_default_timeout(GUARD)
        page.on("request", check)
        page.on("response", lambda response: response.status < 400 or failed.append(response.url))
        page.on("pageerror", lambda error: failed.append(str(error)))
        return page

    yield open_window
    for context in contexts:
        context.close()
    assert (foreign, failed) == ([], [])


@pytest.mark.parametrize(
    ("width", "scheme", "is_bright"), [(1280, "light", True), (400, "dark", False)], ids=["wide, light", "narrow, dark"]
)
def test_pages_fit_into_the_window_and_are_accessible_in_the_scheme_of_the_system(
    open_window, address, width, scheme, is_bright
):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed (extra dev)").Axe()
    window = open_window(width, scheme)
    for name in PAGES:
        window.goto(f"{address}/{name}.html")
        assert window.evaluate("document.documentElement.scrollWidth") <= width, name
        colour = window.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (colour == "rgb(255, 255, 255)") == is_bright
        if name == "reference/embedder":
            continue  # as the others, with many more elements
        found = axe.run(window).response["violations"]
        assert [each["id"] for each in found if each["impact"] in {"serious", "critical"}] == []


def test_lines_of_code_fit_into_the_window_of_a_laptop(open_window, address):
    window = open_window(1366)
    for name in ("start/plain", "guides/answers", "guides/ingest"):
        window.goto(f"{address}/{name}.html")
        code = window.locator("pre code")
        overflow = code.evaluate_all("all => all.map(one => one.scrollWidth - one.clientWidth)")
        assert overflow, name
        assert max(overflow) <= 0, name


def test_option_in_a_narrow_column_breaks_after_its_underscore(open_window, address):
    window = open_window(500)
    window.goto(f"{address}/reference/options.html")
    name = window.locator("td:first-child code").get_by_text("max_concurrency", exact=True)
    before, after = name.evaluate("code => [...code.getClientRects()].map(line => line.width)")
    assert before < after


def test_short_names_stay_whole(open_window, address):
    window = open_window(400)
    window.goto(f"{address}/cli/embed.html")
    names = window.locator("td code, li code").filter(has_text=re.compile(r"^(\.\w+|--\w+(-\w+)?)$"))
    lines = dict(names.evaluate_all("all => all.map(one => [one.textContent, one.getClientRects().length])"))
    assert {".markdown", ".parquet", "--keep"} <= lines.keys()
    assert {name for name, count in lines.items() if count > 1 and len(name) <= 12} == set()


def test_search_finds_the_page_with_the_answer(open_window, address):
    window, missed = open_window(), {}
    window.goto(f"{address}/index.html")
    field, results = window.locator(".md-search__input"), window.locator(".md-search-result__item > a")
    for words, expected in QUESTIONS.items():
        field.fill("")
        field.press("End")  # the page searches after a key
        results.first.wait_for(state="detached")
        field.fill(words)
        field.press("End")
        results.first.wait_for()
        links = results.evaluate_all("links => links.map(link => link.pathname)")[:5]
        if not set(links) & {f"/{name}.html" for name in expected.split()}:
            missed[words] = links
    assert missed == {}
