"""LangChain's own suite for chat models against NanoGPT itself. It needs a key, and costs a few cents."""

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_nanogpt import ChatNanoGPT


@pytest.mark.enable_socket
class TestRealModel(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _service(self, pytestconfig):
        self._options = pytestconfig.real_service

    @property
    def chat_model_class(self):
        return ChatNanoGPT

    @property
    def chat_model_params(self):
        return {"temperature": 0, **self._options}

    @property
    def supports_json_mode(self):
        return True

    @property
    def supports_image_inputs(self):
        return True
