import asyncio

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.extractors import KeywordExtractor, QuestionsAnsweredExtractor, SummaryExtractor, TitleExtractor
from llama_index.core.ingestion import IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SemanticSplitterNodeParser, SentenceSplitter, SentenceWindowNodeParser
from llama_index.core.postprocessor import MetadataReplacementPostProcessor
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.vector_stores import SimpleVectorStore
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

llm = OpenAI(model="gpt-4o-mini")
embed_model = OpenAIEmbedding(model="text-embedding-3-small", dimensions=512)
documents = [Document(text="Bees make honey. Bees live in hives.", doc_id="bees", metadata={"file_name": "a.txt"})]

pipeline = IngestionPipeline(
    transformations=[
        SentenceSplitter(chunk_size=64, chunk_overlap=0),
        TitleExtractor(llm=llm, nodes=1, num_workers=1),
        SummaryExtractor(llm=llm, num_workers=1),
        KeywordExtractor(llm=llm, keywords=2, num_workers=1),
        QuestionsAnsweredExtractor(llm=llm, questions=1, num_workers=1),
        embed_model,
    ],
    docstore=SimpleDocumentStore(),
    vector_store=SimpleVectorStore(stores_text=True),
    cache=IngestionCache(),
)
(node,) = pipeline.run(documents=documents)
assert len(node.embedding) == 512
assert node.metadata["document_title"] == "All about bees"
assert node.metadata["section_summary"] == "A summary."
assert node.metadata["excerpt_keywords"] == "bees, honey"
assert node.metadata["questions_this_excerpt_can_answer"] == "What do bees make?"
assert pipeline.run(documents=documents) == []

text = (
    "Bees make honey. Honey bees live in hives. Bees make wax for hives. "
    "Glass is made from sand. Sand melts in glass ovens. Glass ovens are hot."
)
splitter = SemanticSplitterNodeParser(buffer_size=1, breakpoint_percentile_threshold=80, embed_model=embed_model)
chunks = splitter.get_nodes_from_documents([Document(text=text)])
assert len(chunks) > 1
assert chunks[0].text.startswith("Bees make honey.")
assert "".join(chunk.text for chunk in chunks) == text

window = SentenceWindowNodeParser.from_defaults(window_size=1, window_metadata_key="window")
index = VectorStoreIndex(window.get_nodes_from_documents([Document(text=text)]), embed_model=embed_model)
nodes = index.as_retriever(similarity_top_k=1).retrieve("What is glass made from?")
(replaced,) = MetadataReplacementPostProcessor(target_metadata_key="window").postprocess_nodes(nodes)
assert "Sand melts" in replaced.text


async def main():
    plain = IngestionPipeline(transformations=[SentenceSplitter(chunk_size=64, chunk_overlap=0), embed_model])
    return await plain.arun(documents=[Document(text=f"Document {number}.") for number in range(20)])


assert len(asyncio.run(main())) == 20
assert len({tuple(node.embedding) for node in asyncio.run(main())}) == 20
