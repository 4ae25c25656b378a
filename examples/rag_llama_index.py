"""RAG with LlamaIndex: NanoGPTEmbedding and NanoGPT in Settings, a VectorStoreIndex, its retriever, and a prompt."""

from __future__ import annotations

import argparse

from common import SYSTEM_PROMPT, USER_PROMPT, Service, main, numbered, questions, show_answer, show_cost, show_passages
from corpus import load_passages
from llama_index.core import Settings, VectorStoreIndex
from llama_index.core.prompts import ChatPromptTemplate
from llama_index.core.schema import TextNode

from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding

PROMPT = ChatPromptTemplate.from_messages([("system", SYSTEM_PROMPT), ("user", USER_PROMPT)])


def run(service: Service, options: argparse.Namespace) -> None:
    """Ingest the corpus, then answer the questions from it."""
    connection = {"api_key": service.api_key, "base_url": service.base_url}
    embed_model = NanoGPTEmbedding(model=options.model, **connection)
    Settings.embed_model = embed_model
    Settings.llm = NanoGPT(model=options.chat_model, temperature=0, **connection)

    # The passages' texts name their sources already, so the metadata stays out of what is embedded.
    nodes = [
        TextNode(text=p.text, metadata={"source": p.source}, excluded_embed_metadata_keys=["source"])
        for p in load_passages()
    ]
    index = VectorStoreIndex(nodes, show_progress=True, insert_batch_size=len(nodes))
    retriever = index.as_retriever(similarity_top_k=options.k)
    for question in questions(options):
        print(f"\nQuestion: {question}")
        found = retriever.retrieve(question)
        sources = [hit.node.metadata["source"] for hit in found]
        texts = [hit.node.get_content() for hit in found]
        show_passages([(s, t, hit.get_score()) for s, t, hit in zip(sources, texts, found, strict=True)])
        reply = Settings.llm.chat(PROMPT.format_messages(context=numbered(texts), question=question))
        show_answer(str(reply.message.content), sources)
        used = getattr(reply.raw, "usage", None)
        show_cost(embed_model.usage.prompt_tokens, embed_model.usage.cost_usd, used.total_tokens if used else None)


if __name__ == "__main__":
    main(run, "RAG over Python's own documentation, with LlamaIndex")
