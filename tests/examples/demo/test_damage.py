"""Recovery of indexes after lost files, damage, a kill or concurrent ingests, without embedding a text twice."""

import contextlib
import gc
import os
import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from nanogpt_core.errors import AuthenticationError
from nanogpt_core.sandbox import Fault

pytestmark = pytest.mark.xdist_group("warm processes")

EXAMPLES = Path(__file__).resolve().parents[3] / "examples" / "demo"
LONG = "\n\n".join(f"The {number}th paragraph tells of walnuts and of hazelnuts. " * 8 for number in range(30))
FACTS = {
    "bees": "Bees make honey from nectar, and keep it in combs of wax.",
    "cats": "A cat sleeps for sixteen hours on most days.",
    "nuts": LONG,
    "x200": "The battery of the X200 lasts twelve hours.",
}
WITHOUT_NUTS = {name: text for name, text in FACTS.items() if name != "nuts"}
CHANGED = {**WITHOUT_NUTS, "cats": "A cat purrs.", "nuts": LONG.replace("walnuts", "peanuts")}


def documents(facts):
    from corpus import Passage

    return [Passage(text, source) for source, text in facts.items()]


def texts(pipeline):
    """Return the text of every passage that can be found."""
    return sorted(passage.text for passage in pipeline.retrieve("What is there?"))


@pytest.fixture(scope="module")
def whole(shared_sandbox, tmp_path_factory):
    """Return the texts in an undamaged index of some facts."""
    from settings import Service, Settings

    service = Service("test", shared_sandbox.api_key, shared_sandbox.base_url, is_sandbox=True)
    looked = {}

    def look(kind, facts):
        key = (kind, *facts.items())
        if key not in looked:
            settings = Settings(data=tmp_path_factory.mktemp("whole"), k=1000, min_score=-1)
            with contextlib.closing(kind(service, settings)) as pipeline:
                pipeline.ingest(documents(facts))
                looked[key] = texts(pipeline)
        return looked[key]

    return look


def file_of(tmp_path, name):
    (file,) = tmp_path.glob(f"data/*/*/**/{name}")
    return file


# --- lost ---


LOSSES = [
    *(("LangChainPipeline", name) for name in ("records.sqlite", "meta.json", "storage.sqlite", "qdrant")),
    *(("LlamaIndexPipeline", name) for name in ("documents.json", "meta.json", "storage.sqlite", "qdrant")),
]


@pytest.mark.parametrize(("kind", "lost"), LOSSES, indirect=["kind"])
def test_removed_documents_are_not_found_after_lost_files(kind, opened, whole, tmp_path, lost):
    opened(kind).ingest(documents(FACTS))
    opened(kind).close()
    (place,) = tmp_path.glob(f"data/*/*/**/{lost}")
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    pipeline = opened(kind, k=1000, min_score=-1)
    done = pipeline.ingest(documents(CHANGED))
    assert texts(pipeline) == whole(kind, CHANGED)
    assert done.added + done.unchanged >= len(CHANGED)
    again = opened(kind).ingest(documents(CHANGED))
    assert (again.added, again.removed) == (0, 0)


def test_lost_records_are_restored_from_the_store(opened, embedded, tmp_path):
    rag = pytest.importorskip("langchain_pipeline", exc_type=ImportError)
    first = opened(rag.LangChainPipeline)
    first.ingest(documents(FACTS))
    first.close()
    file_of(tmp_path, "records.sqlite").unlink()
    embedded()
    done = opened(rag.LangChainPipeline).ingest(documents({**WITHOUT_NUTS, "new": "A kettle boils water."}))
    assert embedded() == ["new: A kettle boils water."]
    assert (done.added, done.unchanged) == (1, 3)
    assert done.removed > 3  # all passages of the long one


def test_records_without_stored_passages_are_dropped(opened, embedded):
    rag = pytest.importorskip("langchain_pipeline", exc_type=ImportError)
    opened(rag.LangChainPipeline).ingest(documents(WITHOUT_NUTS))
    pipeline = opened(rag.LangChainPipeline)
    points, _ = pipeline.client.scroll("passages", limit=100)
    pipeline.client.delete("passages", [point.id for point in points if "A cat" in str(point.payload)])
    embedded()
    assert opened(rag.LangChainPipeline).ingest(documents(WITHOUT_NUTS)).added == 1
    assert embedded() == [f"cats: {FACTS['cats']}"]


@pytest.mark.parametrize("put_back", [FACTS, CHANGED], ids=["as it was", "changed"])
def test_restored_documents_are_found_after_a_failed_ingest(framework, opened, sandbox, whole, put_back):
    opened(framework).ingest(documents(FACTS))
    sandbox.add_faults(Fault(status=401))
    with pytest.raises(AuthenticationError):
        opened(framework).ingest(documents({**WITHOUT_NUTS, "new": "A kettle boils water."}))
    pipeline = opened(framework, k=1000, min_score=-1)
    pipeline.ingest(documents(put_back))
    assert texts(pipeline) == whole(framework, put_back)


# --- no text is embedded twice ---


@pytest.fixture
def paid_service(service):
    """The sandbox with prices."""
    return replace(service, is_sandbox=False)


def test_lost_indexes_are_refilled_from_the_embedding_cache(kind, paid_service, embedded, tmp_path):
    from settings import Settings

    settings = Settings(data=tmp_path)

    def ingest():
        with contextlib.closing(kind(paid_service, settings)) as pipeline:
            pipeline.ingest(documents(FACTS))
            assert pipeline.retrieve("How long does the battery of the X200 last?")[0].source == "x200"
        return [text for text in embedded() if "X200 last?" not in text]

    first = ingest()
    assert len(set(first)) == len(first) > len(FACTS)
    for name in ("langchain", "llama_index"):  # the steps that the message on damage names
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    assert ingest() == []


def test_frameworks_share_the_embedding_cache(framework, paid_service, embedded, tmp_path):
    from settings import Settings

    langchain_pipeline = pytest.importorskip("langchain_pipeline", exc_type=ImportError)
    llama_index_pipeline = pytest.importorskip("llama_index_pipeline", exc_type=ImportError)
    both = [langchain_pipeline.LangChainPipeline, llama_index_pipeline.LlamaIndexPipeline]
    both.sort(key=lambda kind: kind is not framework)
    sent = []
    for kind in both:
        with contextlib.closing(kind(paid_service, Settings(data=tmp_path))) as pipeline:
            pipeline.ingest(documents(WITHOUT_NUTS))
        sent.append([text for text in embedded() if text != "How many dimensions?"])
    assert sorted(sent[0]) == sorted(f"{name}: {text}" for name, text in WITHOUT_NUTS.items())
    assert sent[1] == []


def test_finished_batches_are_kept_after_a_failure(paid_service, sandbox, embedded, monkeypatch, tmp_path):
    import openai_sdk_pipeline
    from openai import APIStatusError
    from settings import Settings

    monkeypatch.setattr(openai_sdk_pipeline, "BATCH", 3)
    pipeline = openai_sdk_pipeline.BarePipeline(paid_service, Settings(data=tmp_path))
    sandbox.add_faults(None, Fault(status=401))
    with pytest.raises(APIStatusError):
        pipeline.ingest(documents(FACTS))
    first = embedded()[:3]
    done = pipeline.ingest(documents(FACTS))
    second = embedded()
    assert len(first) == done.unchanged == 3
    assert len(second) == done.added > 3
    assert not set(first) & set(second)
    shorter = pipeline.ingest(documents(WITHOUT_NUTS))
    assert (shorter.added, shorter.removed, shorter.unchanged) == (0, len(first + second) - 3, 3)
    assert embedded() == []
    pipeline.close()


# --- killed ---

KILLED = """
import os, signal, sys
sys.path.insert(0, {examples!r})
import {module} as rag
from settings import Service, Settings
from corpus import Passage
from pathlib import Path
from qdrant_client.local.persistence import CollectionPersistence

def ingest(folder, facts, moment):
    pipeline = rag.{kind}(Service("test", {key!r}, {url!r}, is_sandbox=True), Settings(data=Path(folder)))
    name, left = moment
    take = getattr(CollectionPersistence, name, None)

    def once_more(*arguments):
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(*arguments)

    if take:
        setattr(CollectionPersistence, name, once_more)
    else:
        pipeline.{note} = lambda *arguments, **options: os.kill(os.getpid(), signal.SIGKILL)
    pipeline.ingest([Passage(text, source) for source, text in facts.items()])

for folder, facts, moment in {runs!r}:
    child = os.fork()
    if not child:
        ingest(folder, facts, moment)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL, (folder, "was not killed")
"""
MOMENTS = {
    "first passages stored": ({}, ("persist", 3)),
    "all stored, none noted": ({}, ("note", 1)),
    "some removed": (FACTS, ("delete", 3)),
    "some of what changed stored": (FACTS, ("persist", 2)),
}


@pytest.fixture(scope="module", params=["LangChainPipeline", "LlamaIndexPipeline"])
def killed(request, warm, shared_sandbox, tmp_path_factory):
    """Pipeline class, and a folder for each moment at which an ingest was killed."""
    if not hasattr(os, "fork"):
        pytest.skip("there is no fork")
    from settings import Service, Settings

    kind = request.getfixturevalue("module_framework")(request.param)
    folder = tmp_path_factory.mktemp("killed")
    runs = []
    for number, (before, moment) in enumerate(MOMENTS.values()):
        data = folder / str(number)
        if before:
            service = Service("test", shared_sandbox.api_key, shared_sandbox.base_url, is_sandbox=True)
            with contextlib.closing(kind(service, Settings(data=data))) as pipeline:
                pipeline.ingest(documents(before))
        runs.append((str(data), CHANGED, moment))
    program = KILLED.format(
        examples=str(EXAMPLES),
        module=kind.__module__,
        kind=kind.__name__,
        key=shared_sandbox.api_key,
        url=shared_sandbox.base_url,
        note="records.update" if kind.__name__ == "LangChainPipeline" else "documents.set_document_hashes",
        runs=runs,
    )
    status, _, err = warm.run(program, folder)
    assert status == 0, err or status
    return kind, dict(zip(MOMENTS, (data for data, *_ in runs), strict=True))


@pytest.fixture
def reopened(killed, opened, tmp_path):
    """Open a copy of the index whose ingest was killed at the given moment."""
    kind, folders = killed

    def make(moment):
        shutil.copytree(folders[moment], tmp_path / "data")
        return kind, opened(kind, k=1000, min_score=-1)

    return make


@pytest.mark.parametrize("put_back", [FACTS, CHANGED, WITHOUT_NUTS], ids=["as before", "the same", "less"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_ingest_is_repaired_by_the_next(reopened, whole, moment, put_back):
    kind, pipeline = reopened(moment)
    pipeline.ingest(documents(put_back))
    assert texts(pipeline) == whole(kind, put_back)
    again = pipeline.ingest(documents(put_back))
    assert (again.added, again.removed) == (0, 0)


# --- two at once ---


def test_store_that_changes_while_it_is_opened_is_read_again(framework, opened, tmp_path, monkeypatch):
    from qdrant_client.local.persistence import CollectionPersistence

    opened(framework).ingest(documents(FACTS))
    opened(framework).close()
    load, times = CollectionPersistence.load, []

    def then_another_ends(persistence):
        yield from load(persistence)
        if not times:
            with contextlib.closing(sqlite3.connect(file_of(tmp_path, "storage.sqlite"))) as other, other:
                other.execute("DELETE FROM points")
        times.append(1)

    monkeypatch.setattr(CollectionPersistence, "load", then_another_ends)
    assert opened(framework).client.count("passages").count == 0
    assert len(times) == 2


# --- damaged ---

NOT_WHAT_QDRANT_WROTE = [
    "[]",
    "{}",
    "5",
    "null",
    "",
    '{"collections": [], "aliases": {}}',
    '{"collections": {"passages": null}, "aliases": {}}',
    '{"collections": {"passages": {}}, "aliases": {}}',
    '{"collections": {"passages": {"vectors": {}}}, "aliases": {}}',
    '{"collections": {"passages": {"vectors": {"size": "many", "distance": "Cosine"}}}, "aliases": {}}',
    '{"collections": {}, "aliases": null}',
]
NOT_WHAT_LLAMA_INDEX_WROTE = [
    "5",
    "[]",
    '"docstore"',
    "",
    '{"docstore/data": [5]}',
    '{"docstore/data": {"bees": 5}}',
    '{"docstore/data": {"bees": {}}, "docstore/metadata": {}}',
]
DAMAGES = [
    *(("LangChainPipeline", ("meta.json", text)) for text in NOT_WHAT_QDRANT_WROTE),
    ("LlamaIndexPipeline", ("meta.json", "[]")),
    *(("LlamaIndexPipeline", ("documents.json", text)) for text in NOT_WHAT_LLAMA_INDEX_WROTE),
    *(("BarePipeline", ("vectors.npz", text)) for text in ("", "[]", "PK\x03\x04 half an archive")),
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Qdrant's client leaves a file open
@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
@pytest.mark.parametrize(("kind", "damage"), DAMAGES, indirect=["kind"])
def test_damaged_file_ends_the_demo_with_a_message(kind, damage, sandbox, monkeypatch, tmp_path):
    from command_line import main

    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    data = tmp_path / "data"
    main(kind, "A demo", ["--data", str(data)], load=lambda: documents(WITHOUT_NUTS))
    name, text = damage
    file_of(tmp_path, name).write_text(text)
    with pytest.raises(SystemExit, match=re.escape(f"{data} is damaged or cannot be written")) as ended:
        main(kind, "A demo", ["--data", str(data)], load=lambda: documents(WITHOUT_NUTS))
    folder = {"BarePipeline": "openai_sdk", "LangChainPipeline": "langchain"}.get(kind.__name__, "llama_index")
    assert folder in str(ended.value).partition("Delete the pipeline's own folder in it ")[2]
    shutil.rmtree(data / folder)
    main(kind, "A demo", ["--data", str(data)], load=lambda: documents(WITHOUT_NUTS))
    del ended  # its traceback holds the open file
    gc.collect()


def test_store_of_another_kind_is_closed_after_the_message(framework, sandbox, monkeypatch, tmp_path):
    from command_line import main

    monkeypatch.setenv("NANOGPT_API_KEY", sandbox.api_key)
    monkeypatch.setenv("NANOGPT_BASE_URL", sandbox.base_url)
    words = ["--data", str(tmp_path / "data")]
    main(framework, "A demo", words, load=lambda: documents(WITHOUT_NUTS))
    file = file_of(tmp_path, "meta.json")
    stored = file.read_text()
    named = '{"collections": {"passages": {"vectors": {"a": {"size": 3, "distance": "Dot"}}}}, "aliases": {}}'
    file.write_text(named)
    with pytest.raises(SystemExit, match="is damaged or cannot be written") as ended:
        main(framework, "A demo", words, load=lambda: documents(WITHOUT_NUTS))
    file.write_text(stored)
    main(framework, "A demo", words, load=lambda: documents(WITHOUT_NUTS))
    del ended  # whose traceback would hold a store that is still open
