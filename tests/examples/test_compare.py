"""The comparison of examples/compare: a public retrieval set, the sandbox's vectors and a model on this machine."""

import importlib.util
import json
import threading
from pathlib import Path

import pytest

pytest.importorskip("cyclopts", reason="the cli extra is not installed")

import warm_process
from nanogpt_core.cli.entry import run
from nanogpt_core.comparison import load_passages, load_questions
from nanogpt_core.comparison.questions import check_sources

NEEDED = ("wordllama", "ir_measures")
pytestmark = pytest.mark.skipif(not all(map(warm_process.installed, NEEDED)), reason=f"needs {', '.join(NEEDED)}")
FOLDER = Path(__file__).resolve().parents[2] / "examples" / "compare"
FILES = FOLDER / "xquad" / "questions.jsonl", FOLDER / "xquad" / "passages.jsonl"


@pytest.fixture(scope="module")
def local_model():
    """The name of WordLlama behind the example's server."""
    import uvicorn

    spec = importlib.util.spec_from_file_location("local_server", FOLDER / "local_server.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            started.set()

    # Old versions of uvicorn import deprecated modules for WebSockets, and set uvloop's policy for the whole process.
    server = Server(uvicorn.Config(module.make_app(), port=0, log_level="error", ws="none", loop="none"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert started.wait(60)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"{module.NAME}@http://127.0.0.1:{port}/v1"
    server.should_exit = True
    thread.join(60)


def test_retrieval_set_is_complete_and_small():
    questions, passages = load_questions(FILES[0]), load_passages(FILES[1])
    check_sources(questions, {passage.source for passage in passages})
    assert (len(questions), len(passages)) == (1185, 240)
    assert sum(file.stat().st_size for file in FILES) < 1_000_000
    assert "Attribution-ShareAlike 4.0" in (FOLDER / "xquad" / "LICENSE.txt").read_text(encoding="utf-8")


def test_models_differ_on_the_retrieval_set_beyond_noise(local_model, tmp_path, capsys):
    words = ["--limit", "120", "--sandbox", "-m", "BAAI/bge-m3", "text-embedding-3-small", local_model, "-d", "64"]
    assert run(["compare", *map(str, FILES), "--output", str(tmp_path), *words]) == 0
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    by_name = {(each["model"], each["dimensions"]): each for each in found["variants"]}
    assert len(by_name) == 4
    assert 0.8 < by_name["wordllama", None]["nDCG@10"] < 0.99
    assert by_name["wordllama", None]["dimensions_of_vectors"] == 256
    # 64 of 1536 coordinates that words were hashed to tell too little; a trained model's 256 tell enough.
    assert by_name["text-embedding-3-small", 64]["verdict"] == "worse"
    assert by_name["text-embedding-3-small", 64]["nDCG@10"] < by_name["wordllama", None]["nDCG@10"] - 0.2
    assert capsys.readouterr().out.startswith("SANDBOX")
