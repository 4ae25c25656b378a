"""LangChain's own suite for embeddings, against the sandbox."""

import pytest
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests

from langchain_nanogpt import NanoGPTEmbeddings


class _Model:
    @pytest.fixture(autouse=True)
    def _parameters(self, options):
        self._options = options

    @property
    def embeddings_class(self):
        return NanoGPTEmbeddings

    @property
    def embedding_model_params(self):
        return {"model": "BAAI/bge-m3", **self._options}


class TestUnit(_Model, EmbeddingsUnitTests):
    @property
    def init_from_env_params(self):
        environment = {"NANOGPT_API_KEY": "sk-nano-from-env", "NANOGPT_BASE_URL": "https://example.com/api/v1"}
        expected = {
            "api_key": "sk-nano-from-env",
            "base_url": "https://example.com/api/v1",
            "model": "text-embedding-3-large",
        }
        return environment, {"model": "text-embedding-3-large"}, expected


class TestIntegration(_Model, EmbeddingsIntegrationTests):
    pass
