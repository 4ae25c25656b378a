"""The session of one chat object: its endpoint, rate limit, retries, reports and lifetime."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Mapping
from typing import TypedDict

from nanogpt_core import errors
from nanogpt_core._runtime.validation import MIN_REQUESTS_PER_SECOND, check_number, check_positive
from nanogpt_core.errors import NanoGPTError
from nanogpt_core.http.client import Lifetime
from nanogpt_core.http.connections import aclose_connections, close_connections
from nanogpt_core.http.endpoint import Endpoint
from nanogpt_core.http.error_mapping import map_error
from nanogpt_core.http.limits import SharedLimits, check_limits
from nanogpt_core.http.rate_limiter import ProcessLimits, RateCap, RateLimiter
from nanogpt_core.http.secrets import ApiKey
from nanogpt_core.observability.observer import Observer
from nanogpt_core.observability.records import OnRequest, check_on_request

DEFAULT_RETRIES = 2
"""Attempts after the first of a chat call, as in ``ChatOpenAI``: fewer than for embeddings, as each may be billed."""


class SessionOptions(TypedDict, total=False):
    """Options of a session and of its endpoint, which the chat classes of both plugins take."""

    api_key: ApiKey
    base_url: str | None
    timeout: float | None
    max_retries: int | None
    requests_per_second: float | None
    limits: SharedLimits | None
    on_request: OnRequest | None
    default_headers: Mapping[str, str] | None
    allow_insecure_http: bool


class ChatSession:
    """Settings, rate limit and lifetime shared by the sync and the async chat client of one object.

    The arguments are options of the plugins' chat classes, which describe them.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        max_retries: int = DEFAULT_RETRIES,
        requests_per_second: float | None = None,
        limits: SharedLimits | None = None,
        on_request: OnRequest | None = None,
    ) -> None:
        check_number("max_retries", max_retries, 0)
        check_positive("requests_per_second", requests_per_second, at_least=MIN_REQUESTS_PER_SECOND)
        check_limits(limits, requests_per_second=requests_per_second)
        check_on_request(on_request)
        self.endpoint = endpoint
        self.lifetime = Lifetime()
        self.max_retries = max_retries
        self._requests_per_second = requests_per_second
        self._rate_cap = RateCap(endpoint, requests_per_second)
        self._shared = limits
        self.observer = Observer("chat", endpoint, on_request)

    def __repr__(self) -> str:
        return f"<ChatSession of {self.endpoint.host}>"

    def __reduce__(self) -> tuple[functools.partial[ChatSession], tuple[()]]:
        # Copies and pickles are new sessions with the same options.
        make = functools.partial(
            ChatSession,
            self.endpoint,
            max_retries=self.max_retries,
            requests_per_second=self._requests_per_second,
            limits=self._shared,
            on_request=self.observer.hook,
        )
        return make, ()

    def for_client(self) -> ChatSession:
        """Return this session for a client of the SDK, with a weak reference to the rate cap.

        The SDK's clients are part of reference cycles. A cap must end with the object that set it, and not when the
        garbage collector runs.
        """
        session = object.__new__(ChatSession)
        session.__dict__.update(self.__dict__, _rate_cap=weakref.proxy(self._rate_cap))
        return session

    def close(self) -> None:
        """Close the object, and the connections of this process that no other object uses. Calls under way go on."""
        self.lifetime.is_closed = True
        self._rate_cap.lift()
        close_connections()

    async def aclose(self) -> None:
        """Do the same as :meth:`close`, and close the connections of the running event loop that no other one uses."""
        self.lifetime.is_closed = True
        self._rate_cap.lift()
        await aclose_connections()

    @property
    def limits(self) -> SharedLimits:
        """Rate and budget of all calls with this key. Not kept: they refer to this session, and so to the cap."""
        return ProcessLimits(self._limiter) if self._shared is None else self._shared

    def _limiter(self) -> RateLimiter:
        try:
            return self._rate_cap.limiter()
        except ReferenceError:  # the client has outlived the object that it was made for
            self._rate_cap = RateCap(self.endpoint, self._requests_per_second)
            return self._rate_cap.limiter()

    def map_error(self, error: Exception, seconds: float) -> NanoGPTError:
        """Return this project's error for an error of the SDK or of the HTTP library; the attempt had ``seconds``."""
        failure = map_error(error, self.endpoint.host, seconds)
        if isinstance(failure, errors.ModelNotFoundError) and not failure.wrong_base_url:
            failure.remedy = "Check the model's name, with its suffixes, and base_url; GET /models lists what there is."
        elif isinstance(failure, errors.RequestTooLargeError):
            failure.remedy = (
                "Send shorter messages, ask for fewer tokens, or take a model with a larger context window."
            )
        failure.args = (failure.message, failure.remedy)
        return failure
