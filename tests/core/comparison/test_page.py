"""The page and the charts: content, escaping, and the look in a browser."""

import re
import shutil
from xml.etree import ElementTree

import pytest

from nanogpt_core.comparison import Passage, Question, compare_models
from nanogpt_core.comparison.chart import svg_charts, write_chart
from nanogpt_core.comparison.page import make_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
BAD = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def comparison(shared_sandbox):
    texts = {"bees": "Bees make honey.", "wasps": "Wasps make paper.", "cats": "Cats sleep all day."}
    asked = [
        Question("What do bees make?", ("bees",), "en"),
        Question("Was machen wasps, paper?", ("wasps",), "de"),
        Question(f"Where is the {BAD}?", ("last",), "en", synthetic=True),
    ]
    # More than ten sources are better than the last one, which shares no word with its question.
    corpus = [Passage(text, name) for name, text in texts.items()]
    corpus += [Passage(f"Where is the number {number}?", f"odd-{number}") for number in range(12)]
    corpus.append(Passage("Nothing helps.", "last"))
    models = ["text-embedding-3-small", "BAAI/bge-large-en-v1.5"]
    return compare_models(
        models, asked, corpus, api_key=shared_sandbox.api_key, base_url=shared_sandbox.base_url, dimensions=[16]
    )


@pytest.fixture(scope="module")
def page(comparison):
    return make_page(comparison, notice="Only a trial.")


def text_of(page):
    shown = page.partition("</style>")[2].replace("<wbr>", "")
    return " ".join(re.sub("<[^>]+>", " ", shown).split())


def test_page_says_which_model_to_take_and_why(comparison, page):
    text = text_of(page)
    assert "Only a trial." in text
    assert comparison.advice.summary in text
    for sentence in (*comparison.advice.reasons, *comparison.advice.reservations):
        assert sentence.split("'")[0] in text
    assert f'Embedder("{comparison.advice.chosen.result.variant.candidate.info.id}"'.replace('"', "&quot;") in text
    for result in comparison.results:
        assert result.variant.label in text
    assert "3 questions over 16 passages of 16 sources" in text


def test_page_has_a_table_by_language_and_the_missed_questions(page):
    text = text_of(page)
    assert "nDCG@10 by language variant de (1) en (2)" in text
    assert re.search(
        r"For 1 of 3 questions no right source is in the first 10\. .* Where is the .* last: place 1\d", text
    )
    assert "1 of the 3 questions is by a chat model. The questions are synthetic" in text


def test_page_needs_no_other_file_and_runs_no_script(page):
    assert "<script" not in page
    assert "&lt;script&gt;alert(" in page
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert not re.findall(r"url\((?!#)", page)


def test_charts_are_complete_svg_elements_with_every_model(comparison):
    charts = svg_charts(comparison)
    assert len(charts) == 2
    for chart, label in zip(charts, ("US dollars for a million tokens", "dimensions"), strict=True):
        root = ElementTree.fromstring(chart)
        words = " ".join(root.itertext())
        assert label in words
        assert "text-embedding-3-small" in words
        assert "BAAI/bge-large-en-v1.5 + instruction" in words


@pytest.mark.parametrize(
    ("name", "start"), [("chart.png", b"\x89PNG"), ("chart.svg", b"<?xml"), ("chart.pdf", b"%PDF")]
)
def test_chart_is_written_in_the_format_of_its_name(comparison, tmp_path, name, start):
    write_chart(comparison, tmp_path / name, "A title")
    assert (tmp_path / name).read_bytes().startswith(start)


@pytest.mark.skipif(not CHROMIUM, reason="Chromium is not installed")
def test_page_fits_wide_and_narrow_windows_and_shows_the_advice_first(comparison, page, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=120_000)
        tab = browser.new_page()
        tab.set_default_timeout(120_000)
        errors = []
        tab.on("console", lambda message: errors.append(message.text))
        tab.goto((tmp_path / "page.html").as_uri())
        for width in (1280, 400):
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            take = tab.locator(".take").bounding_box()
            assert take["y"] + take["height"] < 900
            assert tab.locator("table").first.locator("tbody tr").count() == len(comparison.results)
            assert tab.locator("thead").first.is_visible() is (width > 768)
        assert errors == []
        browser.close()
