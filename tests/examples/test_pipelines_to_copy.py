"""Examples that can be copied: each runs as a new user runs it, in its own process and folder."""

import re
import shutil
from pathlib import Path

import pytest

import warm_process

pytestmark = pytest.mark.xdist_group("warm processes")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NEEDS = {
    "langchain_rag": ("langchain_qdrant", "langchain_classic", "langchain_openai", "langchain_text_splitters"),
    "llama_index_rag": ("llama_index.vector_stores.qdrant", "llama_index.llms.openai_like"),
    "openai_sdk_rag": (),
}
DOCUMENTS = {
    "bees.md": "Bees make honey from nectar, and keep it in combs of wax.",
    "animals/cats.txt": "A cat sleeps for sixteen hours on most days.",
    "x200.md": "The battery of the X200 lasts twelve hours.",
}
QUESTION = "How long does the battery of the X200 last?"
# Python 3.13 reports SQLAlchemy's pooled connection, open at exit, and one in memory that qdrant-client forgets
# (local/persistence.py). Ours is closed: test_cache_that_is_no_longer_used_closes_its_file.
UNCLOSED = "unclosed database"
IGNORE_UNCLOSED = f"import warnings; warnings.filterwarnings('ignore', {UNCLOSED!r}, ResourceWarning)\n"


@pytest.fixture(scope="module", params=NEEDS)
def name(request):
    for package in (*NEEDS[request.param], "starlette", "uvicorn"):
        if not warm_process.installed(package):
            pytest.skip(f"{package} is not installed")
    return request.param


@pytest.fixture
def folder(tmp_path):
    for path, text in DOCUMENTS.items():
        file = tmp_path / "texts" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return tmp_path / "texts"


@pytest.fixture
def script(name, tmp_path):
    """The example, copied to a folder."""
    script = tmp_path / "copied" / f"{name}.py"
    script.parent.mkdir()
    return shutil.copy(EXAMPLES / f"{name}.py", script)


@pytest.fixture
def run(script, warm):
    """Run the example in its folder, and return its output; with an ``error``, it must end with that line."""

    def run(*words, environment=None, error=""):
        code = IGNORE_UNCLOSED + script.read_text(encoding="utf-8")
        given = [str(script), *map(str, words)]
        status, out, err = warm.run(code, script.parent, *given, environment=environment, ends=True)
        assert (status, err) == ((1, f"{error}\n") if error else (0, ""))
        return out

    return run


def texts_embedded(sandbox):
    sent = [text for request in sandbox.requests for text in request.inputs]
    sandbox.clear()
    return sorted(text for text in sent if text not in ("dummy_text", QUESTION))


def with_key(sandbox):
    return {"NANOGPT_API_KEY": sandbox.api_key, "NANOGPT_BASE_URL": sandbox.base_url}


def test_without_key_second_run_embeds_nothing_and_answers_the_same(run, folder):
    first, second = run(folder, QUESTION), run(folder, QUESTION)
    assert first.startswith("Index: 3 chunks embedded")
    assert second.startswith("Index: 0 chunks embedded")
    for out in (first, second):
        assert '"The battery of the X200 lasts twelve hours." [1]\n' in out
        assert out.endswith("\n[1] x200.md\n")
    assert first.splitlines()[1:] == second.splitlines()[1:]


def test_with_key_only_changed_documents_are_embedded_and_only_present_ones_are_found(run, folder, sandbox):
    key = with_key(sandbox)
    run(folder, QUESTION, environment=key)
    assert sandbox.requests[-1].body["stream"] is True, "the answer is streamed"
    assert len(texts_embedded(sandbox)) == len(DOCUMENTS)

    assert run(folder, QUESTION, environment=key).startswith("Index: 0 chunks embedded")
    assert texts_embedded(sandbox) == []

    (folder / "bees.md").write_text("Wasps make paper.", encoding="utf-8")
    (folder / "x200.md").unlink()
    out = run(folder, QUESTION, environment=key)
    prompt = str(sandbox.requests[-1].body["messages"])
    (sent,) = texts_embedded(sandbox)
    assert "Wasps make paper." in sent
    assert out.startswith("Index: 1 chunks embedded")
    assert "Wasps make paper." in prompt
    assert "sixteen hours" in prompt
    assert "honey" not in prompt, "the former text of a changed document is gone"
    assert "twelve hours" not in prompt, "a deleted document is gone"
    assert "x200" not in out

    (folder / "x200.md").write_text(DOCUMENTS["x200.md"], encoding="utf-8")
    assert run(folder, QUESTION, environment=key).endswith("\n[1] x200.md\n"), "a document put back is found again"


@pytest.mark.parametrize("exists", [False, True])
def test_folder_without_texts_is_named_in_one_line(run, tmp_path, exists):
    if exists:
        (tmp_path / "none").mkdir()
    run(tmp_path / "none", QUESTION, error=f"No .md or .txt file in {tmp_path / 'none'}.")


def test_file_that_is_not_in_utf8_does_not_end_the_ingest(run, folder):
    (folder / "old.txt").write_bytes(b"The caf\xe9 opens at nine on Sundays.")
    assert run(folder, "When does it open on Sundays?").endswith("\n[1] old.txt\n")


@pytest.mark.parametrize("name", NEEDS, ids=NEEDS, indirect=True)
def test_example_is_one_short_file_without_helper_modules(name):
    source = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert 60 <= len(source.splitlines()) <= 90
    imported = set(re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE))
    helpers = {file.stem for file in EXAMPLES.rglob("*.py")}
    assert not imported & helpers
    assert f"python {name}.py" in source
