from typing import Literal

from langchain_core.messages import SystemMessage
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pydantic import BaseModel, Field


class GradeDocuments(BaseModel):
    """Grade documents for relevance."""

    binary_score: Literal["yes", "no"] = Field(description="'yes' if relevant, or 'no'")


store = InMemoryVectorStore.from_texts(["Bees make honey.", "Ships sail."], OpenAIEmbeddings())
retriever_tool = create_retriever_tool(store.as_retriever(search_kwargs={"k": 1}), "search", "Search the notes.")
response_model = ChatOpenAI(model="gpt-4.1", temperature=0)
grader_model = ChatOpenAI(model="gpt-4.1-mini", temperature=0)


def generate_query_or_respond(state: MessagesState):
    return {"messages": [response_model.bind_tools([retriever_tool]).invoke(state["messages"])]}


def grade_documents(state: MessagesState) -> Literal["generate_answer", "__end__"]:
    prompt = [{"role": "user", "content": f"Is this relevant? {state['messages'][-1].content}"}]
    response = grader_model.with_structured_output(GradeDocuments).invoke(prompt)
    return "generate_answer" if response.binary_score == "yes" else END


def generate_answer(state: MessagesState):
    context = SystemMessage(f"Context:\n\n{state['messages'][-1].content}")
    return {"messages": [response_model.invoke([context, state["messages"][0]])]}


workflow = StateGraph(MessagesState)
workflow.add_node(generate_query_or_respond)
workflow.add_node("retrieve", ToolNode([retriever_tool]))
workflow.add_node(generate_answer)
workflow.add_edge(START, "generate_query_or_respond")
workflow.add_conditional_edges("generate_query_or_respond", tools_condition, {"tools": "retrieve", END: END})
workflow.add_conditional_edges("retrieve", grade_documents)
workflow.add_edge("generate_answer", END)
graph = workflow.compile()
updates = list(graph.stream({"messages": [{"role": "user", "content": "What do bees make?"}]}))
assert [next(iter(update)) for update in updates] == ["generate_query_or_respond", "retrieve", "generate_answer"]
assert updates[1]["retrieve"]["messages"][-1].content == "Bees make honey."
assert updates[2]["generate_answer"]["messages"][-1].content == "Honey."
