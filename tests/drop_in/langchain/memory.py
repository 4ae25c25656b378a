from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, trim_messages
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnablePassthrough
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import MemorySaver
from langgraph.graph import START, MessagesState, StateGraph

model = ChatOpenAI(model="gpt-4o-mini")
prompt = ChatPromptTemplate.from_messages(
    [("system", "Answer in {language}."), MessagesPlaceholder(variable_name="messages")]
)
trimmer = trim_messages(
    max_tokens=40, strategy="last", token_counter=model, include_system=True, allow_partial=False, start_on="human"
)
long = [SystemMessage("You are kind."), *([HumanMessage("I like vanilla. " * 5), AIMessage("Nice.")] * 4)]
trimmed = trimmer.invoke([*long, HumanMessage("Who am I?")])
assert isinstance(trimmed[0], SystemMessage)
assert isinstance(trimmed[1], HumanMessage)
assert len(trimmed) < len(long)
assert model.get_num_tokens("four words are here") > 0

store = {}
chain = RunnablePassthrough.assign(messages=lambda values: trimmer.invoke(values["messages"])) | prompt | model
with_history = RunnableWithMessageHistory(
    chain, lambda session: store.setdefault(session, InMemoryChatMessageHistory()), input_messages_key="messages"
)
for text in ("Hi! I'm Bob.", "What's my name?"):
    response = with_history.invoke(
        {"messages": [HumanMessage(text)], "language": "English"}, {"configurable": {"session_id": "1"}}
    )
assert response.content == "Your name is Bob."
assert [message.type for message in store["1"].messages] == ["human", "ai", "human", "ai"]


def call_model(state: MessagesState):
    return {"messages": model.invoke(prompt.invoke({"messages": state["messages"], "language": "Spanish"}))}


workflow = StateGraph(state_schema=MessagesState)
workflow.add_edge(START, "model")
workflow.add_node("model", call_model)
app = workflow.compile(checkpointer=MemorySaver())
config = {"configurable": {"thread_id": "abc"}}
app.invoke({"messages": [HumanMessage("Hola! Soy Ana.")]}, config)
parts = app.stream({"messages": [HumanMessage("¿Cómo me llamo?")]}, config, stream_mode="messages")
assert "".join(part.content for part, _ in parts) == "Te llamas Ana."
