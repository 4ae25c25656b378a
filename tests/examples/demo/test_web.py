"""Web page of the demo (examples/demo/web.py), in a real process and a real browser."""

import contextlib
import importlib
import os
import random
import re
import shutil
import signal
import socket
from pathlib import Path
from threading import Timer
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

import warm_process

# Each worker of pytest-xdist imports this file, and only one of them runs its tests: NiceGUI takes seconds to import.
for needed in ("nicegui", "langchain_qdrant", "langchain_openai", "langchain_classic", "starlette", "uvicorn"):
    if not warm_process.installed(needed):
        pytest.skip(f"{needed} is not installed", allow_module_level=True)

from nanogpt_core.sandbox import Fault  # noqa: E402

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "demo"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.xdist_group("web"),  # two servers and one browser for all
    pytest.mark.skipif(
        not CHROMIUM, reason="Chromium is not installed; on Debian and Ubuntu: apt-get install chromium"
    ),
]
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-gpu"]
PROGRAM = """
import nicegui, langchain_qdrant, langchain_openai, langchain_classic.indexes
import contextlib, os, sys, warnings
with contextlib.suppress(ImportError):  # without LlamaIndex's LLM, only LangChain's page is tested
    import llama_index.llms.openai_like, llama_index.vector_stores.qdrant
warnings.simplefilter("ignore", DeprecationWarning)  # of the packages, as Python does by default
for name in [*os.environ]:
    if name.startswith("PYTEST"):
        del os.environ[name]  # NiceGUI would serve another page
sys.stderr = sys.stdout
sys.path.insert(0, {examples!r})
import web
from corpus import Passage
facts = {facts!r}
web.main(sys.argv[1:], load=lambda: [Passage(text, name) for name, text in facts.items()])
"""
FACTS = {
    "bees": "Bees make honey from nectar, and keep it in combs of wax.",
    "x200": "The battery of the X200 lasts twelve hours.",
    "markup": "Tulips <b id='bold'>bloom</b> in April. <img src='http://127.0.0.1:9/tulip.png'>",
}
LONGEST_LINE = 160
QUESTION = "How long does the battery of the X200 last?"


def unused_port():
    """Return a free port below those that Linux gives to clients, so that none takes it before the page does."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    return pytest.fail("There is no free port.")


@contextlib.contextmanager
def served(warm, folder, *words, **environment):
    """Run the page as a process, and yield its address as soon as it serves."""
    port = unused_port()
    program = PROGRAM.format(examples=str(EXAMPLES), facts=FACTS)
    words = ("page.py", "--port", str(port), "--data", str(folder / "data"), *words)
    with warm.start(program, folder, *words, environment=environment, with_warnings=True) as process:
        guard = Timer(300, process.kill)  # also ends the read
        guard.start()
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if f"running on http://127.0.0.1:{port} " in line:
                    break
            else:
                pytest.fail("".join(said) + process.stderr.read())
            guard.cancel()  # or it would end the page under tests that take longer on a busy machine
            yield f"http://127.0.0.1:{port}"
        finally:
            guard.cancel()
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate()
    assert [line for line in rest.splitlines() if len(line) > LONGEST_LINE or "WebSocket" in line] == []


@pytest.fixture(scope="module")
def browser():
    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []  # Chromium requires it for root
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    playwright.expect.set_options(timeout=120_000)
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(
            executable_path=CHROMIUM, args=[*QUIET, "--no-first-run", *root], timeout=120_000
        )
        yield running.new_context()  # with one cache for all pages
        running.close()


@pytest.fixture(scope="module", params=["langchain", "llama-index"])
def without_key(request, warm, tmp_path_factory):
    if request.param == "llama-index":
        for package in ("llama_index.vector_stores.qdrant", "llama_index.llms.openai_like"):
            pytest.importorskip(package, exc_type=ImportError)
    folder = tmp_path_factory.mktemp("web")
    with served(warm, folder, "--framework", request.param) as address:
        yield address


# The page is the same for both frameworks: one of them shows it in all sizes and colours.
one_framework = pytest.mark.parametrize("without_key", ["langchain"], indirect=True)


@pytest.fixture
def opened(browser):
    """Open a page; at the end, check that it sent no request to another host."""
    asked = []
    with contextlib.ExitStack() as last:

        def make(address, width=1280, scheme="light"):
            page = browser.new_page()
            last.callback(page.close)
            page.set_viewport_size({"width": width, "height": 800})
            page.emulate_media(color_scheme=scheme)
            asked.clear()
            page.on("request", lambda request: asked.append(request.url))
            page.on("websocket", lambda web_socket: asked.append(web_socket.url))
            page.set_default_timeout(120_000)
            page.goto(address)
            return page

        yield make
    assert {urlsplit(url).hostname for url in asked if not url.startswith("data:")} == {"127.0.0.1"}


def expect(locator):
    """Return Playwright's assertions about an element, which wait until they hold."""
    from playwright.sync_api import expect

    return expect(locator)


def ask(page, question):
    """Ask with the keyboard only, and wait until the answer is complete."""
    before = page.locator(".cost").inner_text()  # every question has a cost, which the page shows last
    page.get_by_label("Your question").fill(question)
    page.keyboard.press("Enter")
    expect(page.locator(".cost")).not_to_have_text(before)
    expect(page.get_by_role("status")).to_have_attribute("aria-busy", "false")
    return page.get_by_role("status").inner_text()


def texts(page, selector):
    return page.locator(selector).all_inner_texts()


def test_page_shows_answer_citations_passages_and_cost(without_key, opened):
    page = opened(without_key)
    assert "the sandbox on this machine" in page.locator(".service").inner_text()
    said = ask(page, QUESTION)
    assert "twelve hours" in said
    assert "[1]" in said
    assert texts(page, ".sources li") == ["[1] x200"]
    assert texts(page, ".passage .name")[0] == "x200"
    assert texts(page, ".passage .text")[0] == FACTS["x200"]
    assert 0.28 <= float(texts(page, ".passage .score")[0]) <= 1
    assert page.locator(".sources a").get_attribute("href") == "#passage-1"
    assert page.locator("#passage-1 .name").inner_text() == "x200"
    assert texts(page, ".error") == [""]
    assert re.search(r"embedding [1-9]\d* tokens \(\$0\.\d+.*chat [1-9]\d* tokens in, [1-9]", texts(page, ".cost")[0])


def test_page_answers_i_dont_know_without_passages(without_key, opened):
    page = opened(without_key)
    ask(page, QUESTION)
    said = ask(page, "Wer regiert Frankreich?")
    assert said.startswith("I don't know.")
    assert texts(page, ".passage") == []
    assert texts(page, ".sources li") == []
    assert texts(page, ".none") == ["None is near enough to the question."]


@one_framework
def test_question_is_asked_although_its_event_comes_after_the_submission(without_key, opened):
    page = opened(without_key)
    page.wait_for_function("window.did_handshake")
    # Each event of NiceGUI waits for the connection by itself: events before that may come in another order.
    page.evaluate(
        """() => { const emit = window.socket.emit.bind(window.socket); const held = [];
            window.socket.emit = (name, data) => {
                if (name === 'event' && !held.length) { held.push([name, data]); return; }
                emit(name, data);
                held.splice(0).forEach((each) => emit(...each));
                window.socket.emit = emit;
            }; }"""
    )
    assert "twelve hours" in ask(page, QUESTION)


def test_passage_is_shown_as_text_not_markup(without_key, opened):
    page = opened(without_key)
    said = ask(page, "When do tulips bloom in April?")
    assert "<b id='bold'>" in said
    assert texts(page, ".passage .text")[0] == FACTS["markup"]
    assert page.locator("#bold, main img").count() == 0


@one_framework
def test_other_host_names_are_refused(without_key):
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(without_key, headers={"Host": "elsewhere.example"}), timeout=60)
    refused.value.close()
    assert refused.value.code == 400


@one_framework
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_page_conforms_to_wcag_2_2_aa_and_fits_its_width(without_key, opened, width, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    page = opened(without_key, width, scheme)
    assert page.locator("main, [role=main]").count() == 1
    assert page.locator("html").get_attribute("lang") == "en-US"
    rules = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    for question in (None, QUESTION, "Wer regiert Frankreich?"):
        if question:
            ask(page, question)
        found = axe.run(page, options={"runOnly": rules}).response
        assert len(found["passes"]) > 10
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found["violations"]] == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@one_framework
def test_focus_stays_visible_on_the_submit_button(without_key, opened):
    page = opened(without_key)
    before = page.locator(".cost").inner_text()
    page.get_by_label("Your question").fill(QUESTION)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator(".cost")).not_to_have_text(before)
    expect(page.get_by_role("status")).to_have_attribute("aria-busy", "false")
    expect(page.get_by_role("button", name="Ask")).to_be_focused()
    expect(page.locator(".sources a").first).to_be_visible()  # before the keyboard looks for it
    outline = "element => { const s = getComputedStyle(element); return [s.outlineStyle, parseFloat(s.outlineWidth)]; }"
    shadow = page.get_by_role("button", name="Ask").evaluate("element => getComputedStyle(element).boxShadow")
    assert "0px 0px 0px 5px" in shadow
    page.keyboard.press("Shift+Tab")
    assert page.locator(".question .q-field__control").evaluate(outline) == ["solid", 3]
    for _ in range(2):
        page.keyboard.press("Tab")
    expect(page.locator(".sources a").first).to_be_focused()
    assert page.locator(".sources a").first.evaluate(outline) == ["solid", 3]


def test_port_in_use_ends_before_anything_is_embedded(sandbox, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    web = importlib.import_module("web")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with pytest.raises(SystemExit, match=f"Port {port} .* cannot be used .* --port"):
            web.main(["--port", port, "--data", str(tmp_path)], load=list)
    for wrong in ("0", "99999", "-1"):
        with pytest.raises(SystemExit, match="2"):
            web.main([f"--port={wrong}", "--data", str(tmp_path)], load=list)
        assert "must be from 1 to 65535" in capsys.readouterr().err
    assert sandbox.requests == []


def test_answer_streams_and_errors_are_readable(sandbox, warm, opened, tmp_path):
    key = {"NANOGPT_API_KEY": sandbox.api_key, "NANOGPT_BASE_URL": sandbox.base_url}
    with served(warm, tmp_path, "--min-score", "0.28", **key) as address:
        page = opened(address)
        assert f"NanoGPT at {sandbox.base_url}" in page.locator(".service").inner_text()

        sandbox.add_faults(None, Fault(401, body={"error": {"message": f"bad key {sandbox.api_key}"}}))
        assert ask(page, QUESTION) == "No answer."
        error = page.get_by_role("alert").inner_text()
        assert "401" in error or "key" in error
        assert sandbox.api_key not in page.content()

        page.evaluate(
            """() => { window.seen = []; new MutationObserver(() => {
                const text = document.querySelector('[role=status]').textContent;
                if (text !== window.seen.at(-1)) window.seen.push(text);
            }).observe(document.querySelector('main'), {subtree: true, childList: true, characterData: true}); }"""
        )
        said = ask(page, QUESTION)
        assert "twelve hours" in said
        assert texts(page, ".error") == [""]
        parts = [text for text in page.evaluate("window.seen") if text not in ("No answer.", "Looking …")]
        assert len(parts) > 1
        assert all(said.startswith(part.rstrip()) for part in parts)
