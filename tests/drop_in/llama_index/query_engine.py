import asyncio
import tempfile

from llama_index.core import Document, Settings, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

Settings.llm = OpenAI(model="gpt-4o-mini", temperature=0.1, max_tokens=512)
Settings.embed_model = OpenAIEmbedding(model="text-embedding-3-small", embed_batch_size=100)

documents = [
    Document(text="Bees make honey from nectar.", metadata={"file_name": "bees.txt"}),
    Document(text="Glass is made from sand.", metadata={"file_name": "glass.txt"}),
    Document(text="Ships sail on the sea.", metadata={"file_name": "ships.txt"}),
]
index = VectorStoreIndex.from_documents(documents)
with tempfile.TemporaryDirectory() as folder:
    index.storage_context.persist(persist_dir=folder)
    index = load_index_from_storage(StorageContext.from_defaults(persist_dir=folder))

query_engine = index.as_query_engine(similarity_top_k=1)
response = query_engine.query("What do bees make?")
assert "honey" in str(response)
assert response.source_nodes[0].metadata["file_name"] == "bees.txt"
assert response.source_nodes[0].score > 0
assert "honey" in str(asyncio.run(query_engine.aquery("What do bees make?")))

streaming = index.as_query_engine(streaming=True, similarity_top_k=1).query("What is glass made from?")
assert "sand" in "".join(streaming.response_gen)

for mode in ("refine", "compact", "tree_summarize", "simple_summarize", "accumulate"):
    engine = index.as_query_engine(response_mode=mode, similarity_top_k=1)
    assert "sail" in str(engine.query("Where do ships sail?")), mode

retriever = index.as_retriever(similarity_top_k=3)
engine = RetrieverQueryEngine.from_args(
    retriever, node_postprocessors=[SimilarityPostprocessor(similarity_cutoff=0.3)], response_mode="no_text"
)
assert len(engine.query("What do bees make?").source_nodes) == 1
query_engine.update_prompts(
    {
        "response_synthesizer:text_qa_template": PromptTemplate(
            "Context information is below.\n---------------------\n{context_str}\n---------------------\n"
            "Query: {query_str}\nAnswer in the style of a poem: "
        )
    }
)
assert "honey" in str(query_engine.query("What do bees make?"))

index.insert(Document(text="Cats sleep all day.", doc_id="cats"))
assert index.as_retriever(similarity_top_k=1).retrieve("Do cats sleep?")[0].text == "Cats sleep all day."
index.delete_ref_doc("cats", delete_from_docstore=True)
assert "Cats" not in index.as_retriever(similarity_top_k=1).retrieve("Do cats sleep?")[0].text
