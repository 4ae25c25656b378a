from langchain_classic.evaluation import EvaluatorType, load_evaluator
from langchain_classic.evaluation.qa import QAEvalChain
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

llm = ChatOpenAI(model="gpt-4", temperature=0)

distance = load_evaluator("embedding_distance", embeddings=OpenAIEmbeddings())
same = distance.evaluate_strings(prediction="I shall go", reference="I shall go")["score"]
other = distance.evaluate_strings(prediction="I shall go", reference="Glass is made from sand")["score"]
assert abs(same) < 1e-6 < other
pair = load_evaluator(EvaluatorType.PAIRWISE_EMBEDDING_DISTANCE, embeddings=OpenAIEmbeddings())
assert pair.evaluate_string_pairs(prediction="Seattle is hot", prediction_b="Seattle is hot")["score"] < 1e-6

criteria = load_evaluator("criteria", llm=llm, criteria="conciseness")
result = criteria.evaluate_strings(prediction="Four.", input="What's 2 + 2?")
assert (result["value"], result["score"]) == ("Y", 1)
labeled = load_evaluator("labeled_criteria", llm=llm, criteria="correctness")
result = labeled.evaluate_strings(input="Capital of the US?", prediction="Topeka", reference="Washington")
assert result["score"] == 0
scored = load_evaluator("labeled_score_string", llm=llm)
result = scored.evaluate_strings(prediction="In the third drawer.", reference="In the third drawer.", input="Where?")
assert result["score"] == 10
battle = load_evaluator("labeled_pairwise_string", llm=llm)
result = battle.evaluate_string_pairs(prediction="four", prediction_b="4", input="how many?", reference="four")
assert result["value"] == "A"
graded = QAEvalChain.from_llm(llm).evaluate(
    [{"query": "What do bees make?", "answer": "Honey"}],
    [{"result": "They make honey."}],
    question_key="query",
    answer_key="answer",
    prediction_key="result",
)
assert graded[0]["results"] == "CORRECT"
