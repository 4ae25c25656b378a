import asyncio

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.evaluation import (
    AnswerRelevancyEvaluator,
    BatchEvalRunner,
    ContextRelevancyEvaluator,
    CorrectnessEvaluator,
    FaithfulnessEvaluator,
    GuidelineEvaluator,
    PairwiseComparisonEvaluator,
    RelevancyEvaluator,
    RetrieverEvaluator,
    SemanticSimilarityEvaluator,
)
from llama_index.core.schema import TextNode
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai import OpenAI

llm = OpenAI(model="gpt-4", temperature=0.0)
embed_model = OpenAIEmbedding(model="text-embedding-3-large")
documents = [Document(text="Bees make honey.", doc_id="bees"), Document(text="Glass is made from sand.")]
index = VectorStoreIndex.from_documents(documents, embed_model=embed_model)
query_engine = index.as_query_engine(llm=llm, similarity_top_k=1)
query = "What do bees make?"
response = query_engine.query(query)

assert FaithfulnessEvaluator(llm=llm).evaluate_response(response=response).passing
assert RelevancyEvaluator(llm=llm).evaluate_response(query=query, response=response).passing
correct = CorrectnessEvaluator(llm=llm).evaluate(query=query, response="Honey.", reference="They make honey.")
assert (correct.score, correct.passing) == (4.5, True)
similar = SemanticSimilarityEvaluator(embed_model=embed_model).evaluate(response="honey", reference="honey")
assert similar.score > 0.99
different = SemanticSimilarityEvaluator(embed_model=embed_model, similarity_threshold=0.9)
assert not different.evaluate(response="honey", reference="glass from sand").passing
assert AnswerRelevancyEvaluator(llm=llm).evaluate(query=query, response="Honey.").score == 1.0
assert ContextRelevancyEvaluator(llm=llm).evaluate(query=query, contexts=["Bees make honey."]).score == 1.0
kind = GuidelineEvaluator(llm=llm, guidelines="Be kind.").evaluate(query=query, contexts=["x"], response="Honey.")
assert kind.passing
pair = PairwiseComparisonEvaluator(llm=llm, enforce_consensus=False)
assert pair.evaluate(query, response="Honey.", second_response="Sand.", reference="Honey").score == 1.0


async def batch():
    runner = BatchEvalRunner(
        {"faithfulness": FaithfulnessEvaluator(llm=llm), "relevancy": RelevancyEvaluator(llm=llm)}, workers=2
    )
    return await runner.aevaluate_queries(query_engine, queries=[query])


results = asyncio.run(batch())
assert [results[name][0].passing for name in ("faithfulness", "relevancy")] == [True, True]

nodes = [TextNode(text="Bees make honey.", id_="bees")]
retriever = VectorStoreIndex(nodes, embed_model=embed_model).as_retriever(similarity_top_k=1)
measured = RetrieverEvaluator.from_metric_names(["mrr", "hit_rate"], retriever=retriever)
assert measured.evaluate("What do bees make?", ["bees"]).metric_vals_dict == {"mrr": 1.0, "hit_rate": 1.0}
