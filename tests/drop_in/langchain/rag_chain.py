import asyncio

from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_text_splitters import RecursiveCharacterTextSplitter

pages = [
    Document(page_content="Bees make honey from nectar. " * 8, metadata={"source": "bees.txt"}),
    Document(page_content="Glass is made from sand, in ovens. " * 8, metadata={"source": "glass.txt"}),
]
splitter = RecursiveCharacterTextSplitter(chunk_size=120, chunk_overlap=20, add_start_index=True)
splits = splitter.split_documents(pages)
assert len(splits) > len(pages)

vectorstore = InMemoryVectorStore.from_documents(splits, embedding=OpenAIEmbeddings(model="text-embedding-3-large"))
retriever = vectorstore.as_retriever(search_type="similarity", search_kwargs={"k": 2})
assert {found.metadata["source"] for found in retriever.invoke("What do bees make?")} == {"bees.txt"}

prompt = ChatPromptTemplate.from_template(
    "Answer the question with this context only.\n\nContext:\n{context}\n\nQuestion: {question}"
)
llm = ChatOpenAI(model="gpt-4o", temperature=0, max_tokens=None, timeout=None, max_retries=2)


def format_docs(docs):
    return "\n\n".join(f"[{number}] {doc.page_content}" for number, doc in enumerate(docs, 1))


rag_chain = {"context": retriever | format_docs, "question": RunnablePassthrough()} | prompt | llm | StrOutputParser()
answer = rag_chain.invoke("What do bees make?")
assert "Bees make honey" in answer
assert "".join(rag_chain.stream("What do bees make?")) == answer
assert rag_chain.batch(["What do bees make?", "What is glass made from?"])[0] == answer


async def main():
    assert await rag_chain.ainvoke("What do bees make?") == answer
    assert "".join([part async for part in rag_chain.astream("What do bees make?")]) == answer


asyncio.run(main())
