from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

llm = ChatOpenAI(model="gpt-3.5-turbo", temperature=0)
retriever = InMemoryVectorStore.from_texts(
    ["Task decomposition splits a task into steps.", "Honey keeps for years."], OpenAIEmbeddings()
).as_retriever(search_kwargs={"k": 1})

contextualize = ChatPromptTemplate.from_messages(
    [
        ("system", "Rewrite the latest question so that it stands without the chat history."),
        MessagesPlaceholder("chat_history"),
        ("human", "{input}"),
    ]
)
answering = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer with the context only.\n\nContext:\n{context}"),
        MessagesPlaceholder("chat_history"),
        ("human", "{input}"),
    ]
)
rag_chain = create_retrieval_chain(
    create_history_aware_retriever(llm, retriever, contextualize), create_stuff_documents_chain(llm, answering)
)
sessions = {}


def get_session_history(session_id):
    return sessions.setdefault(session_id, InMemoryChatMessageHistory())


conversation = RunnableWithMessageHistory(
    rag_chain,
    get_session_history,
    input_messages_key="input",
    history_messages_key="chat_history",
    output_messages_key="answer",
)
config = {"configurable": {"session_id": "abc123"}}
first = conversation.invoke({"input": "What is task decomposition?"}, config=config)
assert first["answer"] == "Splitting a task into steps."
assert first["context"][0].page_content.startswith("Task decomposition")
# The second question is rewritten first: "And does honey keep?"
second = conversation.invoke({"input": "And the other thing?"}, config=config)
assert second["context"][0].page_content == "Honey keeps for years."
assert second["answer"] == "Yes, for years."
assert [type(message) for message in sessions["abc123"].messages[::2]] == [HumanMessage, HumanMessage]
assert len(sessions["abc123"].messages) == 4
