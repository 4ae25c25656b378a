"""Synthetic questions: a chat model writes each from a passage, for a corpus that has no questions yet."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, Any

from nanogpt_core.comparison.passages import Passage
from nanogpt_core.comparison.questions import Question
from nanogpt_core.http.endpoint import CHAT_TIMEOUT, Endpoint
from nanogpt_core.http.secrets import ApiKey, hide_key
from nanogpt_core.models.listing import fetch_chat_price
from nanogpt_core.models.tokens import count_tokens

if TYPE_CHECKING:
    from nanogpt_core.chat.session import ChatSession

_INSTRUCTION = (
    "Write one question that the passage below answers, as a person would ask it who does not know the passage. Use "
    "the language of the passage, but other words than the passage if you can. The question must make sense without "
    "the passage: do not speak of 'the passage', 'the text' or 'the author'. Answer with the question only, in one "
    "line.\n\nPassage:\n"
)
_MAX_ANSWER_TOKENS = 300
_MAX_PASSAGE_CHARACTERS = 6000
_MIN_PASSAGE_CHARACTERS = 80  # shorter ones, such as headings, answer no question
_MAX_QUESTION_CHARACTERS = 500
_THREADS = 8
_SEED = 20_260


class QuestionWriter:
    """Writes questions for the passages of a corpus, in the same order of passages each time.

    Args:
        passages: The corpus.
        chat_model: The chat model.
        done: Questions that were written before; their passages get no further one.
        api_key: The key. Default: the environment's.
        base_url: Base URL of the API. Default: the environment's.

    Raises:
        ConfigurationError: The service does not list the chat model, or an invalid argument.
        NanoGPTError: The request for the list of chat models failed.
    """

    def __init__(
        self,
        passages: Sequence[Passage],
        chat_model: str,
        *,
        done: Sequence[Question] = (),
        api_key: ApiKey = None,
        base_url: str | None = None,
    ) -> None:
        api_key = hide_key(api_key)
        self._endpoint = Endpoint.resolve(api_key=api_key, base_url=base_url, timeout=CHAT_TIMEOUT)
        self._model = chat_model
        self._passages = list(_choose(passages, Counter(source for question in done for source in question.sources)))
        self._prices = fetch_chat_price(self._endpoint, chat_model)

    @property
    def available(self) -> int:
        """The number of passages that a question can be written for."""
        return len(self._passages)

    def most_usd(self, count: int) -> float | None:
        """Return the most that ``count`` questions cost, in US dollars; None if the price is unknown.

        Prompts are counted as OpenAI's models do, and answers at their limit of 300 tokens.
        """
        if self._prices is None:
            return None
        prompt_price, answer_price = self._prices
        asked = self._passages[:count]
        prompt_tokens = sum(count_tokens(_prompt(passage), "text-embedding-3-small") for passage in asked)
        answer_tokens = _MAX_ANSWER_TOKENS * len(asked)
        return (prompt_tokens * prompt_price + answer_tokens * answer_price) / 1_000_000

    def write(self, count: int) -> Iterator[Question]:
        """Yield questions as they are written, at most ``count``. An answer that is no question is left out.

        Raises:
            NanoGPTError: A request failed; after the questions of the requests that had begun, which are paid for.
            KeyboardInterrupt: Ctrl-C; after these questions too.
        """
        from nanogpt_core.chat.client import make_chat_client
        from nanogpt_core.chat.session import ChatSession

        session = ChatSession(self._endpoint)
        client = make_chat_client(session)
        waiting = iter(self._passages[:count])
        asked: set[Future[Question | None]] = set()
        failure: BaseException | None = None
        with ThreadPoolExecutor(_THREADS) as threads:
            while True:
                try:
                    for passage in islice(waiting, _THREADS - len(asked)):
                        asked.add(threads.submit(self._ask, session, client, passage))
                    if not asked:
                        break
                    done, asked = wait(asked, return_when=FIRST_COMPLETED)
                except KeyboardInterrupt as interrupt:
                    waiting, failure = iter(()), interrupt
                    continue
                for future in done:
                    error = future.exception()
                    if error is not None:
                        waiting, failure = iter(()), failure or error
                    elif (question := future.result()) is not None:
                        yield question
        if failure is not None:
            raise failure

    def _ask(self, session: ChatSession, client: Any, passage: Passage) -> Question | None:
        from nanogpt_core.chat.client import map_sdk_errors

        messages: Any = [{"role": "user", "content": _prompt(passage)}]
        with map_sdk_errors(session):
            answer = client.chat.completions.create(model=self._model, messages=messages, max_tokens=_MAX_ANSWER_TOKENS)
        text = " ".join((answer.choices[0].message.content or "").split()).strip("\"'“”„«» ")
        usable = 0 < len(text) <= _MAX_QUESTION_CHARACTERS and answer.choices[0].finish_reason == "stop"
        return Question(text, (passage.source,), synthetic=True) if usable else None


def _choose(passages: Sequence[Passage], done: Mapping[str, int]) -> Iterator[Passage]:
    """Yield passages in an order that is random, and the same for the same corpus: one of each source, then another.

    ``done`` is the number of passages of each source that have a question, and are left out.
    """
    random_order = random.Random(_SEED)  # noqa: S311 - no secret
    by_source: dict[str, list[Passage]] = {}
    for passage in passages:
        if len(passage.text) >= _MIN_PASSAGE_CHARACTERS:
            by_source.setdefault(passage.source, []).append(passage)
    sources = list(by_source)
    random_order.shuffle(sources)
    for found in by_source.values():
        random_order.shuffle(found)
    for place in range(max(map(len, by_source.values()), default=0)):
        for source in sources:
            if done.get(source, 0) <= place < len(by_source[source]):
                yield by_source[source][place]


def _prompt(passage: Passage) -> str:
    return _INSTRUCTION + passage.text[:_MAX_PASSAGE_CHARACTERS]
