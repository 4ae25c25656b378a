"""Keys and headers in errors and attributes of all four classes of the plugins."""

import copy

import pytest

pytest.importorskip("langchain_openai")
pytest.importorskip("llama_index.llms.openai_like", exc_type=ImportError)

from langchain_nanogpt import ChatNanoGPT, NanoGPTEmbeddings
from llama_index_nanogpt import NanoGPT, NanoGPTEmbedding
from nanogpt_core.errors import NanoGPTError

KEY = "sk-nano-very-secret"
HEADER = "header-5ecre7"


@pytest.fixture(params=[NanoGPTEmbeddings, NanoGPTEmbedding, ChatNanoGPT, NanoGPT], ids=lambda cls: cls.__name__)
def make(request):
    return lambda **options: request.param(**{"api_key": "k", **options})


@pytest.mark.parametrize("name", ["api_key", "openai_api_key"])
@pytest.mark.parametrize("way", ["constructor", "model_copy", "copy"])
def test_key_is_in_no_local_variable_of_an_option_error(make, key_variables, name, way):
    given = {name: KEY, "temprature": 1}
    with pytest.raises(NanoGPTError, match=r"temprature|api_key") as caught:
        make(**given) if way == "constructor" else getattr(make(), way)(update=given)
    assert key_variables(caught.value, KEY) == []


def test_key_is_in_no_local_variable_after_setting_it_as_an_attribute(make, key_variables):
    one = make()
    with pytest.raises(NanoGPTError, match="api_key cannot be changed") as caught:
        one.api_key = KEY
    assert key_variables(caught.value, KEY) == []


@pytest.mark.parametrize("bad", [{}, {"temprature": 1}, {"max_retries": -1}], ids=["headers", "name", "value"])
@pytest.mark.parametrize("way", ["constructor", "model_copy", "copy", "attribute"])
def test_headers_are_in_no_local_variable_of_an_option_error(make, key_variables, bad, way):
    given = {"default_headers": {"X-Gateway": HEADER if bad else f"{HEADER}\n"}, **bad}
    unchanged = make()
    ways = {
        "constructor": lambda: make(**given),
        "model_copy": lambda: unchanged.model_copy(update=given),
        "copy": lambda: unchanged.copy(update=given),
        "attribute": lambda: setattr(unchanged, "default_headers", given["default_headers"]),
    }
    with pytest.raises(NanoGPTError) as caught:
        ways[way]()
    assert key_variables(caught.value, HEADER) == []


def test_headers_are_hidden_in_the_attributes_of_an_object(make):
    one = make(default_headers={"X-Gateway": HEADER})
    for holder in (one, one.model_copy(), copy.deepcopy(one), one.model_copy(update={"max_retries": 1})):
        assert HEADER not in f"{holder.__dict__} {dict(holder)} {holder.default_headers}"
        assert holder.default_headers == {"X-Gateway": HEADER}
