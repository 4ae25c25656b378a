from langchain_classic.indexes import SQLRecordManager, index
from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    EnsembleRetriever,
    MultiQueryRetriever,
    ParentDocumentRetriever,
)
from langchain_classic.retrievers.document_compressors import EmbeddingsFilter, LLMChainExtractor
from langchain_core.documents import Document
from langchain_core.example_selectors import SemanticSimilarityExampleSelector
from langchain_core.prompts import FewShotPromptTemplate, PromptTemplate
from langchain_core.stores import InMemoryStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_text_splitters import RecursiveCharacterTextSplitter

embeddings = OpenAIEmbeddings()
llm = ChatOpenAI(temperature=0)
texts = ["Bees make honey. Bees sting.", "Ships sail on the sea.", "Glass is made from sand."]
store = InMemoryVectorStore.from_texts(texts, embeddings)
base = store.as_retriever(search_kwargs={"k": 2})

several = MultiQueryRetriever.from_llm(retriever=base, llm=llm)
assert {texts[0], texts[1]} <= {doc.page_content for doc in several.invoke("honey and the sea?")}

extracting = ContextualCompressionRetriever(base_compressor=LLMChainExtractor.from_llm(llm), base_retriever=base)
assert [doc.page_content for doc in extracting.invoke("What do bees make?")] == ["Bees make honey."]
filtering = ContextualCompressionRetriever(
    base_compressor=EmbeddingsFilter(embeddings=embeddings, similarity_threshold=0.3), base_retriever=base
)
assert [doc.page_content for doc in filtering.invoke("What do bees make?")] == [texts[0]]

parents = ParentDocumentRetriever(
    vectorstore=InMemoryVectorStore(embeddings),
    docstore=InMemoryStore(),
    child_splitter=RecursiveCharacterTextSplitter(chunk_size=20, chunk_overlap=0),
)
parents.add_documents([Document(page_content=text) for text in texts])
assert parents.invoke("Bees sting")[0].page_content == texts[0]
ensemble = EnsembleRetriever(retrievers=[base, parents], weights=[0.5, 0.5])
assert ensemble.invoke("What is glass made from?")[0].page_content == texts[2]

record_manager = SQLRecordManager("test/notes", db_url="sqlite:///:memory:")
record_manager.create_schema()
docs = [Document(page_content=text, metadata={"source": str(number)}) for number, text in enumerate(texts)]
options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
assert index(docs, record_manager, InMemoryVectorStore(embeddings), **options)["num_added"] == 3

examples = [{"input": "happy", "output": "sad"}, {"input": "tall tree", "output": "short tree"}]
selector = SemanticSimilarityExampleSelector.from_examples(examples, OpenAIEmbeddings(), InMemoryVectorStore, k=1)
few_shot = FewShotPromptTemplate(
    example_selector=selector,
    example_prompt=PromptTemplate.from_template("{input} -> {output}"),
    prefix="Give the antonym.",
    suffix="{adjective} ->",
    input_variables=["adjective"],
)
assert "tall tree -> short tree" in few_shot.format(adjective="old tree")
