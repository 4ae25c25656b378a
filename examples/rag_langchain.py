"""RAG with LangChain: NanoGPTEmbeddings, a vector store, and an LCEL chain that ends in ChatNanoGPT."""

from __future__ import annotations

import argparse

from common import SYSTEM_PROMPT, USER_PROMPT, Service, main, numbered, questions, show_answer, show_cost, show_passages
from corpus import load_passages
from langchain_core.documents import Document
from langchain_core.messages import AIMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings

PROMPT = ChatPromptTemplate([("system", SYSTEM_PROMPT), ("user", USER_PROMPT)])


def run(service: Service, options: argparse.Namespace) -> None:
    """Ingest the corpus, then answer the questions from it."""
    connection = {"api_key": service.api_key, "base_url": service.base_url}
    embeddings = NanoGPTEmbeddings(options.model, show_progress_bar=True, **connection)
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(p.text, metadata={"source": p.source}) for p in load_passages()])

    def retrieve(question: str) -> list[tuple[Document, float]]:
        return store.similarity_search_with_score(question, k=options.k)

    def context(inputs: dict[str, list[tuple[Document, float]]]) -> str:
        return numbered([document.page_content for document, _ in inputs["found"]])

    answer = PROMPT | ChatNanoGPT(model=options.chat_model, temperature=0, **connection)
    chain = {"found": RunnableLambda(retrieve), "question": RunnablePassthrough()} | RunnablePassthrough.assign(
        answer=RunnablePassthrough.assign(context=context) | answer
    )
    for question in questions(options):
        print(f"\nQuestion: {question}")
        result = chain.invoke(question)
        found, message = result["found"], result["answer"]
        assert isinstance(message, AIMessage)
        sources = [document.metadata["source"] for document, _ in found]
        show_passages([(s, d.page_content, score) for s, (d, score) in zip(sources, found, strict=True)])
        show_answer(str(message.content), sources)
        used = message.usage_metadata
        show_cost(embeddings.usage.prompt_tokens, embeddings.usage.cost_usd, used["total_tokens"] if used else None)


if __name__ == "__main__":
    main(run, "RAG over Python's own documentation, with LangChain")
