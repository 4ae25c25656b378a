from langchain_experimental.text_splitter import SemanticChunker
from langchain_openai import OpenAIEmbeddings

text = (
    "Bees make honey. Honey bees live in hives. Bees make wax for hives. "
    "Glass is made from sand. Sand melts in glass ovens. Glass ovens are hot."
)
text_splitter = SemanticChunker(
    OpenAIEmbeddings(), breakpoint_threshold_type="percentile", breakpoint_threshold_amount=80, buffer_size=0
)
docs = text_splitter.create_documents([text])
assert [doc.page_content.split()[0] for doc in docs] == ["Bees", "Glass"]
