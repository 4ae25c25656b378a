"""RAG with the bare OpenAI SDK: the four steps of NanoGPT's reference page, finished.

There is no retrying, splitting, caching or checking of replies here: that is what the packages are for.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import SYSTEM_PROMPT, USER_PROMPT, Service, main, numbered, questions, show_answer, show_cost, show_passages
from corpus import Passage, load_passages
from openai import OpenAI
from tqdm import tqdm

from nanogpt_core import get_model
from nanogpt_core.usage import price

BATCH = 512


def embed(client: OpenAI, model: str, texts: list[str]) -> tuple[np.ndarray, int]:
    """Return a row for each text, and the tokens billed."""
    rows: list[list[float]] = []
    tokens = 0
    with tqdm(total=len(texts), unit="text", desc="Embedding") as bar:
        for start in range(0, len(texts), BATCH):
            batch = texts[start : start + BATCH]
            reply = client.embeddings.create(model=model, input=batch)
            rows += [item.embedding for item in sorted(reply.data, key=lambda item: item.index)]
            tokens += reply.usage.prompt_tokens
            bar.update(len(batch))
    return np.array(rows, dtype=np.float32), tokens


def find_similar(query: np.ndarray, matrix: np.ndarray, passages: list[Passage], k: int) -> list[tuple[Passage, float]]:
    """Return the ``k`` passages nearest to the query, by cosine, with their scores."""
    scores = matrix @ query / (np.linalg.norm(matrix, axis=1) * np.linalg.norm(query))
    return [(passages[i], float(scores[i])) for i in np.argsort(-scores)[:k]]


def run(service: Service, options: argparse.Namespace) -> None:
    """Go through the four steps."""
    client = OpenAI(api_key=service.api_key, base_url=service.base_url)

    # 1. Embed and store the knowledge base.
    passages = load_passages()
    matrix, tokens = embed(client, options.model, [passage.text for passage in passages])

    for question in questions(options):
        print(f"\nQuestion: {question}")
        # 2. Embed the question.
        query = client.embeddings.create(model=options.model, input=question)
        tokens += query.usage.prompt_tokens
        # 3. Find the most relevant facts.
        found = find_similar(np.array(query.data[0].embedding), matrix, passages, options.k)
        show_passages([(passage.source, passage.text, score) for passage, score in found])
        # 4. Answer from them with a chat completion.
        context = numbered([passage.text for passage, _ in found])
        reply = client.chat.completions.create(
            model=options.chat_model,
            temperature=0,
            messages=[
                {"role": "system", "content": SYSTEM_PROMPT},
                {"role": "user", "content": USER_PROMPT.format(context=context, question=question)},
            ],
        )
        show_answer(reply.choices[0].message.content or "", [passage.source for passage, _ in found])
        cost = price(tokens, get_model(options.model).usd_per_million_tokens)
        show_cost(tokens, cost, reply.usage.total_tokens if reply.usage else None)


if __name__ == "__main__":
    main(run, "RAG over Python's own documentation, with the bare OpenAI SDK")
