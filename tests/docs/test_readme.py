"""README and generated pages: tables and figures agree with the code and the measurements, and links lead to files."""

import importlib.util
import inspect
import json
import re
from pathlib import Path

import pytest

from nanogpt_core import MODELS, Embedder

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_first_snippet_is_in_the_first_40_lines():
    assert README.splitlines().index("```python") < 40


@pytest.fixture(scope="module")
def generator():
    spec = importlib.util.spec_from_file_location("readme_tables", ROOT / ".ci" / "readme.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATED = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if re.search(r"<!-- [\w ]+: begin -->", page.read_text(encoding="utf-8"))
)


@pytest.mark.parametrize("page", GENERATED)
def test_generated_tables_are_current(generator, page):
    assert generator.update(page) == (ROOT / page).read_text(encoding="utf-8"), "run `make readme`"


def test_each_generated_page_is_checked(generator):
    assert sorted(generator.PARTS) == GENERATED


def test_table_of_options_has_each_option_with_its_default(generator):
    table = generator.options_table()
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.MULTILINE))
    assert list(rows) == list(inspect.signature(Embedder).parameters)
    assert rows["max_concurrency"] == "`16`"
    assert rows["base_url"] == "`NANOGPT_BASE_URL`, then `https://nano-gpt.com/api/v1`"
    assert rows["cache"] == "no cache"


def test_table_of_models_has_each_model(generator):
    assert re.findall(r"^\| `(.+?)` \|", generator.models_table(), re.MULTILINE) == list(MODELS)


def test_table_of_sources_has_the_source_of_each_model(generator):
    rows = re.findall(r"^\| `(.+?)` \| (.+) \|$", generator.sources_table(), re.MULTILINE)
    assert rows == [(model.id, model.source) for model in MODELS.values()]


OUTCOMES = ("right", "typed error", "raw error", "silently wrong", "hang")


def totals(fault, column, first="core"):
    """Return a figure of the totals in FAULTS.md: of embeddings, or of chat, whose table begins with another column."""
    lines = (ROOT / "benchmarks" / "FAULTS.md").read_text(encoding="utf-8").splitlines()
    table = lines[next(number for number, line in enumerate(lines) if line.startswith(f"| | {first} |")) :]
    head, row = table[0], next(line for line in table if line.startswith(f"| {fault} |"))
    cells = [[cell.strip() for cell in line.split("|")[2:-1]] for line in (head, row)]
    return dict(zip(*cells, strict=True))[column]


def test_fault_figures_equal_the_measured_figures():
    said = " ".join(README.split("<!-- faults: begin -->")[1].split("<!-- faults: end -->")[0].split())
    others = "langchain-openai"
    number = totals("faults", others)
    assert f"`OpenAIEmbeddings` was tested with {number} faults." in said
    wrong, hangs = totals("silently wrong", others), totals("hang", others)
    assert f"In {wrong} it returned wrong vectors or ignored an option; in {hangs} it hung." in said
    assert totals("silently wrong", "core") == totals("hang", "core") == "0"
    most = "most requests for one fault"
    assert f"up to {totals(most, others)} requests" in said
    assert f"up to {totals(most, 'LlamaIndex OpenAI')}." in said
    assert f"at most {totals(most, 'core')}," in said
    assert f"{totals('something leaked', others)} of the {number} faults" in said


@pytest.mark.parametrize(("first", "number"), [("core", 0), ("LangChain", 1)], ids=["embeddings", "chat"])
def test_fault_outcomes_add_up_to_the_number_of_faults(first, number):
    text = (ROOT / "benchmarks" / "FAULTS.md").read_text(encoding="utf-8")
    total = int(re.findall(r"(\d+) faults of", text)[number])
    head = next(line for line in text.splitlines() if line.startswith(f"| | {first} |"))
    for column in [cell.strip() for cell in head.split("|")[2:-1]]:
        faults = sum(int(totals(outcome, column, first)) for outcome in OUTCOMES)
        assert faults == int(totals("faults", column, first)), column
        assert faults + int(totals("not concerned", column, first)) == total, column
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert f"{total} faults" in page if first == "core" else f"{total} of chat" in page


def test_chat_fault_figures_equal_the_measured_figures():
    said = " ".join(README.split("<!-- faults: begin -->")[1].split("<!-- faults: end -->")[0].split())
    figures = {
        outcome: [totals(outcome, column, "LangChain") for column in ("langchain-openai", "LlamaIndex OpenAI")]
        for outcome in OUTCOMES
    }
    number = totals("faults", "LangChain", "LangChain")
    assert f"Of {number} measured faults of chat" in said
    assert (
        "wrong results for {} and raw errors for {}".format(figures["silently wrong"][0], figures["raw error"][0])
        in said
    )
    assert (
        "wrong results for {} and raw errors for {}".format(figures["silently wrong"][1], figures["raw error"][1])
        in said
    )
    for column in ("LangChain", "LlamaIndex"):
        assert {totals(outcome, column, "LangChain") for outcome in ("raw error", "silently wrong", "hang")} == {"0"}


PLACES = sorted(
    {*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/**/*.ipynb"), *ROOT.glob("examples/**/*.md")}
)


# Pages name files by their paths from one of these.
FOLDERS = (ROOT, ROOT / "nanogpt_core", ROOT / "tests")


@pytest.mark.parametrize("page", PLACES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_named_files_exist(page):
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    links = [link.partition("#")[0] for link in re.findall(r"\]\((?!https?:|#)([^)\s]+)\)", text)]
    named = re.findall(r"`(tests/[\w/]+|[\w.]+/[\w./]+\.py)`", text)
    missing = [link for link in links if link and not (page.parent / link).exists()]
    missing += [name for name in named if not any((folder / name).exists() for folder in FOLDERS)]
    assert missing == []


def test_speed_figures_of_the_page_equal_the_measured_figures():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    page = " ".join((ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8").split())

    def texts_per_second(client, title):
        part = results.split(f"## 20,000 texts, {title}\n")[1].split("\n## ")[0]
        return int(re.search(rf"^\| {re.escape(client)} \| \w+ \| ([\d,]+) \|", part, re.MULTILINE)[1].replace(",", ""))

    latency = "100 ms latency a request"
    ours = texts_per_second("NanoGPTEmbeddings.embed_documents", latency)
    assert f"{ours / texts_per_second('langchain-openai', latency):.0f} times as many texts" in page
    ours = texts_per_second("NanoGPTEmbedding.get_text_embedding_batch", latency)
    assert f"{ours / texts_per_second('LlamaIndex OpenAIEmbedding', latency):.0f} times as many as LlamaIndex" in page
    target = re.search(r"share of a granted rate that is used, sync \| ([\d.]+)", results)[1]
    assert f"{float(target):.0%}".replace("%", " %") + " of a granted rate" in page
    memory = re.search(r"at most (\d+) after a batch", results)[1]
    assert f"{memory} MiB of memory" in page
    targets = dict(re.findall(r"^\| (.+?) \| ([\d.]+) \| ", results, re.MULTILINE))
    defaults = targets["matrix, no latency: `Embedder.embed`, defaults, against raw socket"]
    best = targets["the same at its best settings"]
    assert f"reaches {best} of a program on raw sockets, and {defaults} at its defaults" in page
    assert f"The figures are of {re.search(r'^- (20[-0-9]+), ', results, re.MULTILINE)[1]}; `make bench`" in page


def test_quoted_message_of_check_width_is_the_message():
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    quoted = " ".join(re.findall(r"^> (.+)$", page, re.MULTILINE))
    with pytest.raises(ValueError, match=re.escape(quoted)):
        Embedder("BAAI/bge-m3", api_key="any").check_width(1536)


def test_figures_of_vector_stores_equal_the_measured_figures():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    table = page.split("## Into a vector store\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+, \w+)(?: \(in memory(, `batch_size=2048`)?\))? \| (.+) \|$", table, re.MULTILINE)
    assert len(rows) == 6
    for name, batch_size, figures in rows:
        lines = re.findall(rf"^\| {name}: (.+?) \|.* ([\d.]+) \|$", results, re.MULTILINE)
        measured = [seconds for client, seconds in lines if client.endswith(")") == bool(batch_size)]
        assert figures.split(" | ") == measured, name


def test_figures_of_the_aiohttp_client_equal_the_measured_figures():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")
    page = " ".join((ROOT / "docs" / "guides" / "network.md").read_text(encoding="utf-8").split())
    table = results.split("## Queries under way in tasks, no latency\n")[1].split("\n## ")[0]
    # With 32 under way.
    per_second = dict(re.findall(r"^\| (.+?) \| [^|]+ \| [^|]+ \| ([\d,]+); ", table, re.MULTILINE))
    ours, sdk = per_second["Embedder.aembed_query"], per_second["OpenAI SDK embeddings.create, async"]
    ours_with = per_second["Embedder.aembed_query (the SDK's aiohttp client)"]
    sdk_with = per_second["OpenAI SDK embeddings.create, async (its aiohttp client)"]
    assert f"{ours} queries per second without the aiohttp client, and {ours_with} with it" in page
    assert f"the SDK itself {sdk} and {sdk_with} (" in page
