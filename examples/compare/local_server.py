"""A small embedding model on this machine behind an OpenAI-compatible API, to compare with NanoGPT's models.

``python examples/compare/local_server.py`` serves WordLlama (MIT licence, 256 dimensions), whose weights come with its
package: ``pip install wordllama``. Servers such as Ollama, llama.cpp and vLLM have the same API.
"""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
import wordllama
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

NAME = "wordllama"


def load_model() -> Any:
    """Return the model of the package; nothing is downloaded."""
    # Its loader looks for the tokenizer in the cache only, and the package has the layout of a cache.
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


def make_app() -> Starlette:
    """Return the application: ``POST /v1/embeddings``."""
    model = load_model()

    async def embeddings(request: Request) -> JSONResponse:
        body = await request.json()
        texts = [body["input"]] if isinstance(body["input"], str) else body["input"]
        vectors = await run_in_threadpool(model.embed, texts, norm=True)
        as_base64 = body.get("encoding_format") == "base64"
        data = [
            {"object": "embedding", "index": number, "embedding": encode(vector) if as_base64 else vector.tolist()}
            for number, vector in enumerate(vectors)
        ]
        tokens = sum(len(text) // 4 + 1 for text in texts)  # an estimate; these tokens cost nothing
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "data": data, "model": NAME, "usage": usage})

    return Starlette(routes=[Route("/v1/embeddings", embeddings, methods=["POST"])])


def encode(vector: np.ndarray) -> str:
    """Return a vector as base64 of little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--port", type=int, default=8090)
    options = parser.parse_args()
    print(f"Name for nanogpt compare: {NAME}@http://127.0.0.1:{options.port}/v1", flush=True)
    uvicorn.run(make_app(), port=options.port, log_level="warning")
