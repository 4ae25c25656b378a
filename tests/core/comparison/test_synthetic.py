"""Questions that a chat model writes."""

import signal
import threading

import pytest

from fault_server import FaultServer, response
from nanogpt_core.comparison import Passage, Question
from nanogpt_core.comparison.synthetic import QuestionWriter
from nanogpt_core.errors import AuthenticationError, BadRequestError, ConfigurationError
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.models.listing import fetch_chat_price
from nanogpt_core.sandbox import Fault, Reply

CHAT = "gpt-4o-mini"
LONG = "This sentence is long enough to hold an answer, and it goes on and on for a while. "


@pytest.fixture
def corpus():
    return [Passage(f"{LONG}{name}{part}", name) for name in ("a", "b", "c") for part in range(2)] + [
        Passage("Hi", "d")
    ]


@pytest.fixture
def service(fresh_sandbox):
    return {"api_key": fresh_sandbox.api_key, "base_url": fresh_sandbox.base_url}


def test_each_question_is_written_from_a_passage_of_another_source(fresh_sandbox, corpus, service):
    fresh_sandbox.add_replies(*(Reply(f' "Question {number}?"\n') for number in range(3)))
    writer = QuestionWriter(corpus, CHAT, **service)
    assert writer.available == 6  # "Hi" is too short
    written = list(writer.write(3))
    assert sorted(question.text for question in written) == ["Question 0?", "Question 1?", "Question 2?"]
    assert sorted(question.sources for question in written) == [("a",), ("b",), ("c",)]
    assert all(question.synthetic for question in written)
    prompts = [request.body["messages"][0]["content"] for request in fresh_sandbox.requests if request.method == "POST"]
    assert all(LONG in prompt for prompt in prompts)
    assert len(set(prompts)) == 3


def test_second_run_takes_other_passages(fresh_sandbox, corpus, service):
    def passages(done):
        fresh_sandbox.clear()
        list(QuestionWriter(corpus, CHAT, done=done, **service).write(3))
        return {request.body["messages"][0]["content"][-2:] for request in fresh_sandbox.requests if request.body}

    first = passages([])
    second = passages([Question("?", (name,)) for name in "abc"])
    assert {text[0] for text in first} == {text[0] for text in second} == {"a", "b", "c"}
    assert not first & second
    assert passages([]) == first
    assert QuestionWriter(corpus, CHAT, done=[Question("?", (name,)) for name in "aabb"], **service).available == 2


@pytest.mark.parametrize("reply", [Reply(""), Reply("x" * 501), Reply("Why", finish_reason="length")])
def test_answer_that_is_no_question_is_left_out(fresh_sandbox, corpus, service, reply):
    fresh_sandbox.add_replies(reply)
    assert len(list(QuestionWriter(corpus, CHAT, **service).write(2))) == 1


def test_questions_of_requests_beside_a_failed_one_are_kept(fresh_sandbox, corpus, service):
    bad = Fault(400, body={"error": {"message": "no"}})
    fresh_sandbox.add_replies(Reply("What is it?"), bad, *(Reply(f"Question {number}?") for number in range(4)))
    kept = []
    with pytest.raises(BadRequestError):
        kept.extend(QuestionWriter(corpus, CHAT, **service).write(6))
    answered = [request for request in fresh_sandbox.requests if (request.method, request.status) == ("POST", 200)]
    assert len(kept) == len(answered) > 0  # each of them is paid for


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="This system has no signals for a thread.")
def test_ctrl_c_keeps_the_questions_of_requests_that_had_begun(corpus, monkeypatch):
    monkeypatch.setattr("nanogpt_core.comparison.synthetic.fetch_chat_price", lambda *_: None)
    pressed = threading.Event()

    def press_ctrl_c():
        pressed.set()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    begun = threading.Barrier(8, action=press_ctrl_c)  # all threads have sent a request

    def answer(_seen):
        if not pressed.is_set():
            begun.wait(30)
        message = {"role": "assistant", "content": "What is it?"}
        return response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    kept = []
    with FaultServer(answer) as server:
        writer = QuestionWriter(corpus * 100, CHAT, api_key=server.api_key, base_url=server.base_url)
        with pytest.raises(KeyboardInterrupt):
            kept.extend(writer.write(600))
        assert 8 <= len(kept) == len(server.requests) < 600  # a system under load may interrupt some requests later


def test_error_ends_the_writing_without_further_requests(fresh_sandbox, corpus, service):
    writer = QuestionWriter(corpus * 20, CHAT, **service)
    fresh_sandbox.config.api_key = "sk-nano-another"
    with pytest.raises(AuthenticationError):
        list(writer.write(120))
    assert sum(request.method == "POST" for request in fresh_sandbox.requests) < 60


def test_cost_is_bounded_by_the_prices_of_the_list(corpus, service, monkeypatch):
    monkeypatch.setattr("nanogpt_core.comparison.synthetic.fetch_chat_price", lambda *_: (1.0, 10.0))
    writer = QuestionWriter(corpus, CHAT, **service)
    answers = 6 * 300 * 10 / 1e6
    assert answers < writer.most_usd(6) < answers + 6 * 200 * 1 / 1e6
    assert writer.most_usd(99) == writer.most_usd(6)
    monkeypatch.setattr("nanogpt_core.comparison.synthetic.fetch_chat_price", lambda *_: None)
    assert QuestionWriter(corpus, CHAT, **service).most_usd(6) is None


def test_unknown_chat_model_is_refused_with_near_names(corpus, service):
    with pytest.raises(ConfigurationError, match=r"does not have 'gpt-4o-mni'\. Did you mean gpt-4o-mini"):
        QuestionWriter(corpus, "gpt-4o-mni", **service)


def test_price_of_a_chat_model_is_read_from_the_list(service):
    endpoint = Endpoint.resolve(**service)
    assert fetch_chat_price(endpoint, CHAT) == (0.15, 0.6)
    assert fetch_chat_price(endpoint, f"{CHAT}:online") is None  # the suffix may cost more
