import asyncio

from llama_index.core import Document, SummaryIndex, VectorStoreIndex
from llama_index.core.indices.query.query_transform import HyDEQueryTransform
from llama_index.core.postprocessor import LLMRerank, SentenceEmbeddingOptimizer
from llama_index.core.query_engine import RouterQueryEngine, SubQuestionQueryEngine, TransformQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.selectors import LLMSingleSelector, PydanticMultiSelector, PydanticSingleSelector
from llama_index.core.tools import QueryEngineTool, ToolMetadata
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

llm = OpenAI(model="gpt-3.5-turbo")
embed_model = OpenAIEmbedding()
documents = [Document(text="Bees make honey. Bees sting."), Document(text="Ships sail on the sea.")]
index = VectorStoreIndex.from_documents(documents, embed_model=embed_model)
vector_tool = QueryEngineTool(
    query_engine=index.as_query_engine(llm=llm, similarity_top_k=1),
    metadata=ToolMetadata(name="vectors", description="Answers single questions."),
)
summary_tool = QueryEngineTool.from_defaults(
    SummaryIndex.from_documents(documents).as_query_engine(llm=llm, response_mode="tree_summarize"),
    name="summary",
    description="Summarizes.",
)

router = RouterQueryEngine(
    selector=PydanticSingleSelector.from_defaults(llm=llm), query_engine_tools=[summary_tool, vector_tool], llm=llm
)
response = router.query("What do bees make?")
assert response.metadata["selector_result"].ind == 1
assert str(response) == "Honey."
router = RouterQueryEngine(
    selector=LLMSingleSelector.from_defaults(llm=llm), query_engine_tools=[summary_tool, vector_tool], llm=llm
)
assert str(router.query("Summarize, please.")) == "Bees and ships."
choice = asyncio.run(
    PydanticMultiSelector.from_defaults(llm=llm).aselect([summary_tool.metadata, vector_tool.metadata], "Both?")
)
assert choice.inds == [0, 1]

questions = SubQuestionQueryEngine.from_defaults(
    query_engine_tools=[vector_tool],
    llm=llm,
    question_gen=LLMQuestionGenerator.from_defaults(llm=llm),
    verbose=False,
    use_async=False,
)
response = questions.query("Compare bees and ships.")
assert str(response) == "Bees make honey, ships sail."
assert len(response.source_nodes) == 4

fusion = QueryFusionRetriever(
    [index.as_retriever(similarity_top_k=1)], llm=llm, similarity_top_k=2, num_queries=2, use_async=False
)
assert {node.text for node in fusion.retrieve("bees?")} == {document.text for document in documents}
hyde = TransformQueryEngine(index.as_query_engine(llm=llm, similarity_top_k=1), HyDEQueryTransform(llm=llm))
assert hyde.query("What do insects make?").source_nodes[0].text == documents[0].text

nodes = index.as_retriever(similarity_top_k=2).retrieve("bees or ships?")
ranked = LLMRerank(llm=llm, choice_batch_size=5, top_n=1).postprocess_nodes(nodes, query_str="ships")
assert [(node.text, node.score) for node in ranked] == [(nodes[1].text, 9.0)]
optimizer = SentenceEmbeddingOptimizer(
    embed_model=embed_model, percentile_cutoff=0.5, context_before=0, context_after=0
)
bees = [node for node in nodes if "sting" in node.text]
(best,) = optimizer.postprocess_nodes(bees, query_str="Do bees sting?")
assert best.text == "Bees sting."
