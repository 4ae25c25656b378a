"""Builds the wheel, installs it with one extra at a time into an empty environment, and embeds once in each.

The sandbox that answers runs in this process's environment, not in the one that is tested.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"
os.environ["UV_LINK_MODE"] = "copy"  # NLTK refuses files that are linked to uv's cache

CORE = """
import sys
import nanogpt_core
from nanogpt_core import Embedder
vectors = Embedder().embed(["one text", "and another"])
assert vectors.shape == (2, 1536), vectors.shape
"""
LANGCHAIN = """
from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
assert NanoGPTEmbeddings().embed_query("one text") == vectors[0].tolist()
assert "sandbox" in ChatNanoGPT().invoke("Hello").content
"""
LLAMA_INDEX = """
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
assert NanoGPTEmbedding().get_query_embedding("one text") == vectors[0].tolist()
assert "sandbox" in str(NanoGPT().complete("Hello"))
"""
SANDBOX = """
from nanogpt_core import Sandbox
with Sandbox() as other:
    again = Embedder(api_key=other.api_key, base_url=other.base_url).embed(["one text", "and another"])
assert (again == vectors).all()
"""
REDIS = """
from nanogpt_core import RedisLimits
Embedder(limits=RedisLimits("redis://127.0.0.1"))
"""
ARROW = """
import pyarrow
from nanogpt_core import EmbedTable
assert EmbedTable("text")(pyarrow.table({"text": ["one text"]})).column("embedding")[0].as_py() == vectors[0].tolist()
"""
CLI = """
import subprocess
help = subprocess.run([sys.executable, "-m", "nanogpt_core.cli", "--help"], check=True, capture_output=True, text=True)
assert "completion" in help.stdout
def embed(source, output, *options):
    command = [sys.executable, "-m", "nanogpt_core.cli", "embed", source, "-o", output, "-q", *options]
    subprocess.run(command, check=True, capture_output=True)
with open("texts.txt", "w") as file:
    file.write("one text")
embed("texts.txt", "texts.parquet", "--overwrite")
"""
PDF = "import pypdfium2"
LANCE = """
embed("texts.txt", "texts.lance", "--overwrite")
"""
CLI_INDEX = """
code = '''
from nanogpt_core.cli import entry, vector_index
vector_index.MIN_INDEXED_NUMBERS = 1
raise SystemExit(entry.run(["search", "texts.parquet", "honey"]))
'''
subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
open("texts.parquet.index", "rb").close()
"""
LLM = """
import llm
assert llm.get_embedding_model("nanogpt/text-embedding-3-small").embed("one text") == vectors[0].tolist()
"""
# These extras are for examples/ and the tests, beside the packages.
DEMO = "import langchain_qdrant, llama_index.vector_stores.qdrant, qdrant_client"
COMPARE = """
from nanogpt_core.comparison import Passage, Question, compare_models
from nanogpt_core.comparison.page import make_page
passages = [Passage("Bees make honey.", "bees"), Passage("Cats sleep.", "cats")]
comparison = compare_models(["BAAI/bge-m3"], [Question("What do bees make?", ("bees",))], passages)
assert "Take BAAI/bge-m3." in make_page(comparison)
"""
WEB = "import nicegui"
CHECKS = {
    "": CORE,
    "[langchain]": CORE + LANGCHAIN,
    "[llama-index]": CORE + LLAMA_INDEX,
    "[sandbox]": CORE + SANDBOX,
    "[redis]": CORE + REDIS,
    "[arrow]": CORE + ARROW,
    "[cli]": CORE + CLI,
    "[pdf]": CORE + CLI + PDF,
    "[lance]": CORE + CLI + LANCE,
    "[cli-index]": CORE + CLI + CLI_INDEX,
    "[llm]": CORE + LLM,
    "[all]": CORE + LANGCHAIN + LLAMA_INDEX + SANDBOX,
    "[demo]": CORE + DEMO,
    "[compare]": CORE + COMPARE,
    "[web]": CORE + WEB,
}


def main() -> None:
    """Build, then check each extra; the first failure ends it."""
    from nanogpt_core import Sandbox

    with tempfile.TemporaryDirectory() as folder, Sandbox() as sandbox:
        subprocess.run([UV, "build", "--quiet", "--out-dir", folder, ROOT], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        environment = {**os.environ, "NANOGPT_API_KEY": sandbox.api_key, "NANOGPT_BASE_URL": sandbox.base_url}
        for extra, code in CHECKS.items():
            check(Path(folder), f"{wheel}{extra}", code, environment)
            print(f"{wheel.name}{extra}: installs, imports and embeds", flush=True)


def check(folder: Path, requirement: str, code: str, environment: dict[str, str]) -> None:
    """Install ``requirement`` into an empty environment, and run ``code`` there, away from the checkout."""
    venv = folder / "venv"
    python = venv / "bin" / "python"
    subprocess.run([UV, "venv", "--quiet", "--clear", "--python", sys.executable, venv], check=True)
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, requirement], check=True)
    subprocess.run([python, "-W", "error", "-c", code], check=True, cwd=folder, env=environment)


if __name__ == "__main__":
    main()
