from langchain_classic.chains import RetrievalQA
from langchain_classic.chains.summarize import load_summarize_chain
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

llm = ChatOpenAI(temperature=0, model_name="gpt-3.5-turbo-1106", model_kwargs={"user": "me"})
docs = [Document(page_content="Bees make honey."), Document(page_content="Ships sail.")]
summary = load_summarize_chain(llm, chain_type="map_reduce").invoke({"input_documents": docs})
assert summary["output_text"] == "Bees and ships."
refined = load_summarize_chain(llm, chain_type="refine").invoke({"input_documents": docs})
assert refined["output_text"] == "Bees, then ships."

qa = RetrievalQA.from_chain_type(
    llm=llm,
    chain_type="stuff",
    retriever=InMemoryVectorStore.from_documents(docs, OpenAIEmbeddings()).as_retriever(search_kwargs={"k": 1}),
    return_source_documents=True,
)
result = qa.invoke({"query": "What do bees make?"})
assert result["result"] == "Honey."
assert [doc.page_content for doc in result["source_documents"]] == ["Bees make honey."]

picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
question = HumanMessage(content=[{"type": "text", "text": "What is in this image?"}, picture])
assert ChatOpenAI(model="gpt-4o", max_tokens=1024).invoke([question]).content == "A bee."
