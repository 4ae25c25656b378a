import asyncio

import faiss
from langchain_community.docstore.in_memory import InMemoryDocstore
from langchain_community.vectorstores import FAISS
from langchain_core.documents import Document
from langchain_openai import OpenAIEmbeddings

embeddings = OpenAIEmbeddings(model="text-embedding-3-large", dimensions=1024, chunk_size=1000)
index = faiss.IndexFlatL2(len(embeddings.embed_query("hello world")))
store = FAISS(embedding_function=embeddings, index=index, docstore=InMemoryDocstore(), index_to_docstore_id={})
documents = [
    Document(page_content="Pancakes for breakfast this morning.", metadata={"source": "tweet"}),
    Document(page_content="The weather tomorrow is cloudy.", metadata={"source": "news"}),
    Document(page_content="Robbers stole a million from the bank.", metadata={"source": "news"}),
]
ids = store.add_documents(documents=documents, ids=["1", "2", "3"])
assert ids == ["1", "2", "3"]
assert store.index.d == embeddings.dimensions == 1024

assert store.similarity_search("How is the weather?", k=1, filter={"source": "news"})[0].id == "2"
scored = store.similarity_search_with_score("What was for breakfast?", k=3)
assert scored[0][0].id == "1"
assert scored[0][1] <= scored[1][1] <= scored[2][1]
assert store.similarity_search_by_vector(embeddings.embed_query("robbers at the bank"), k=1)[0].id == "3"
retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 2, "fetch_k": 3, "lambda_mult": 0.5})
assert len(retriever.invoke("Tell me the news.")) == 2

store.delete(ids=["3"])
assert len(asyncio.run(store.asimilarity_search("robbers at the bank", k=3))) == 2

joined = FAISS.from_texts(["Ships sail."], embeddings)
joined.merge_from(store)
assert joined.index.ntotal == 3
vectors = embeddings.embed_documents(["one", "two"])
assert [len(vector) for vector in vectors] == [1024, 1024]
assert vectors[0] == embeddings.embed_query("one")
