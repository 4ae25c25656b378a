"""The sandbox's HTTP application: paths, key check, rate limit, faults."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from nanogpt_core.sandbox.chat import answer_chat, chat_models
from nanogpt_core.sandbox.config import SandboxConfig
from nanogpt_core.sandbox.embeddings import answer_embeddings, model_list
from nanogpt_core.sandbox.http_errors import HTTPError, failed_function
from nanogpt_core.sandbox.rate_limit import DailyLimit, RateWindow
from nanogpt_core.sandbox.request_log import RecordedRequest, RequestLog, describe
from nanogpt_core.sandbox.script import Fault, Script, as_json, check_faults
from nanogpt_core.sandbox.service_errors import SERVICE_ERRORS
from nanogpt_core.sandbox.usage import usage_report

_BASES = ("/api/v1", "/api/subscription/v1", "/api/paid/v1")
_SMALL_BODY_BYTES = 8192  # below, a thread costs more time than it saves
_ROUTE_PROBLEMS = {404: ("not_found", "does not exist"), 405: ("method_not_allowed", "does not take this method")}
_WITHOUT_BODY = (204, 304)  # statuses that HTTP allows no body
_Answer = Callable[[Request, bytes], Awaitable[Response]]


class SandboxApp:
    """The application.

    Attributes:
        log: The requests so far.
        script: Replies to chat requests in place of quotes; may grow while the server runs.
        more_faults: Faults before those of the configuration; may grow while the server runs.
        closing: Set, in the server's event loop, when the server stops: it ends every delay.
    """

    def __init__(self, config: SandboxConfig) -> None:
        self.config = config
        self.log = RequestLog(config.keep_requests, config.keep_bytes)
        self.script = Script(config.script)
        self.more_faults: deque[Fault | None] = deque()
        self.closing = asyncio.Event()
        self._faults = iter(config.faults)
        rate = config.requests_per_second
        self._rate = None if rate is None else RateWindow(rate)
        most = config.requests_per_day
        self._daily = None if most is None else DailyLimit(most)

    def starlette(self) -> Starlette:
        """Return the ASGI application."""
        routes = [Route("/api/check-balance", self._endpoint(self._balance), methods=["POST"])]
        for base in _BASES:
            routes += [
                Route(f"{base}/embeddings", self._endpoint(self._embeddings, faulty=True), methods=["POST"]),
                Route(f"{base}/chat/completions", self._endpoint(self._chat, faulty=True), methods=["POST"]),
                # NanoGPT needs no key for both lists.
                Route(f"{base}/embedding-models", self._endpoint(self._embedding_models, without_key=True)),
                Route(f"{base}/models", self._endpoint(self._models, without_key=True)),
                Route(f"{base}/usage", self._endpoint(self._usage)),
            ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._no_route, Exception: self._broken})
        app.router.redirect_slashes = False
        return app

    def _endpoint(
        self, answer: _Answer, *, faulty: bool = False, without_key: bool = False
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            try:
                body = await self._body(request)
            except ClientDisconnect:
                return Response(status_code=408)  # no client is left to read it
            try:
                if not without_key:
                    self._check_key(request.headers)
                self._check_rate()
                _check_encoding(request.headers)
                response = await self._fault() if faulty else None
                await self._wait(self.config.latency)
                response = response or await answer(request, body)
            except HTTPError as error:
                response = _error_response(error)
            return self._finish(request, response, body)

        return endpoint

    async def _body(self, request: Request) -> bytes:
        """Return the body; an incomplete one does not delay the end of the server."""
        reading, closing = asyncio.ensure_future(request.body()), asyncio.ensure_future(self.closing.wait())
        await asyncio.wait({reading, closing}, return_when=asyncio.FIRST_COMPLETED)
        closing.cancel()
        if not reading.done():
            reading.cancel()
            raise ClientDisconnect
        return reading.result()

    def _finish(self, request: Request, response: Response, body: bytes = b"") -> Response:
        """Set the response's id, and log the request before the client sees the answer."""
        response.headers.setdefault("x-request-id", f"sandbox-{uuid.uuid4().hex}")
        record = RecordedRequest(
            method=request.method,
            path=request.url.path,
            status=response.status_code,
            headers=dict(request.headers),
            **describe(_json_or_empty(body)),
        )
        self.log.add(record, len(body))
        return response

    async def _embeddings(self, _request: Request, body: bytes) -> Response:
        def work() -> bytes:
            return answer_embeddings(_json_object(body), self.config)

        reply = work() if len(body) < _SMALL_BODY_BYTES else await run_in_threadpool(work)
        return _json_response(reply)

    async def _chat(self, request: Request, body: bytes) -> Response:
        report_cost = self.config.report_cost
        answer = await run_in_threadpool(lambda: answer_chat(_json_object(body), self.script, report_cost=report_cost))
        if isinstance(answer, Fault):
            await self._wait(answer.delay)
            return _fault_response(answer)
        if not answer.streamed:
            return _json_response(answer.whole())
        return StreamingResponse(_until_disconnect(request, list(answer.events())), media_type="text/event-stream")

    async def _embedding_models(self, _request: Request, _body: bytes) -> Response:
        return _json_response(orjson.dumps(model_list(self.config)))

    async def _models(self, request: Request, _body: bytes) -> Response:
        detailed = request.query_params.get("detailed", "").lower() in {"true", "1"}
        return _json_response(orjson.dumps(chat_models(self.config.context_lengths, detailed=detailed)))

    async def _balance(self, _request: Request, _body: bytes) -> Response:
        return _json_response(orjson.dumps({"usd_balance": "10.00000000", "nano_balance": "0.00000000"}))

    async def _usage(self, request: Request, _body: bytes) -> Response:
        report = usage_report(self.log.snapshot(), request.query_params, self.config.all_models())
        return _json_response(orjson.dumps(report))

    async def _no_route(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        code, problem = _ROUTE_PROBLEMS.get(status, (None, "cannot be served"))
        message = f"{request.method} {request.url.path}: this path {problem}."
        answer = HTTPError(status, message, code=code, headers=getattr(error, "headers", None))
        return self._finish(request, _error_response(answer))

    async def _broken(self, request: Request, error: Exception) -> Response:
        answer = HTTPError(500, f"The sandbox failed: {error!r}", type="server_error")
        return self._finish(request, _error_response(answer))

    def _check_key(self, headers: Mapping[str, str]) -> None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not given and headers.get("x-x402", "").lower() == "true":
            payment = SERVICE_ERRORS["insufficient_quota"]
            raise HTTPError(402, "Payment required.", body=payment.body)  # type: ignore[arg-type] # a mapping
        if not hmac.compare_digest(given.encode(), self.config.api_key.encode()):
            raise HTTPError(401, "Invalid or missing API key.", type="authentication_error", code="invalid_api_key")

    def _check_rate(self) -> None:
        seconds = self._rate.admit() if self._rate else 0
        if seconds:
            message = "Too many requests; come again after Retry-After seconds."
            raise HTTPError(
                429,
                message,
                type="rate_limit_error",
                # The reference page gives the same error object for every status; the service gives this one.
                body=None if self.config.reference_page else {"code": "rate_limited", "message": message},
                headers={"Retry-After": str(seconds)},
            )
        seconds = self._daily.admit() if self._daily else 0
        if seconds:
            raise HTTPError(
                429,
                f"Daily request limit exceeded ({self.config.requests_per_day}). Resets at midnight UTC.",
                type="rate_limit_error",
                code="daily_rpd_limit_exceeded",
                headers={"Retry-After": str(seconds)},
            )

    async def _fault(self) -> Response | None:
        try:
            fault = self.more_faults.popleft() if self.more_faults else next(self._faults, None)
            check_faults("faults", [fault])  # those of an iterator are not checked before
        except Exception as error:
            raise failed_function("The iterator `faults`", error) from error
        if fault is None:
            return None
        await self._wait(fault.delay)
        return None if fault.status is None else _fault_response(fault)

    async def _wait(self, seconds: float) -> None:
        if seconds > 0:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.closing.wait(), seconds)


async def _until_disconnect(request: Request, events: Iterable[bytes]) -> AsyncIterator[bytes]:
    # Without this check each further event gives a warning in the log.
    for event in events:
        if await request.is_disconnected():
            return
        yield event


def _check_encoding(headers: Mapping[str, str]) -> None:
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPError(415, "Unsupported Content-Encoding.", code="unsupported_content_encoding")


def _json_response(content: bytes, status: int = 200) -> Response:
    return Response(content, status_code=status, media_type="application/json")


def _error_response(error: HTTPError) -> Response:
    response = _json_response(as_json("body", error.body), error.status)
    response.headers.update(error.headers)
    return response


def _fault_response(fault: Fault) -> Response:
    status = fault.status or 500  # a fault that answers has one
    if status in _WITHOUT_BODY:
        response = Response(status_code=status)
    elif isinstance(fault.body, bytes):
        response = _json_response(fault.body, status)
    elif isinstance(fault.body, str):
        response = Response(fault.body, status_code=status, media_type="text/plain")
    elif fault.body is None:
        response = _error_response(HTTPError(status, "A fault that this sandbox was told to have.", type="fault"))
    else:
        response = _json_response(as_json("body", fault.body), status)
    response.headers.update(fault.headers)
    return response


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        decoded = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HTTPError(400, f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(decoded, dict):
        raise HTTPError(400, "The body must be a JSON object.", code="invalid_json")
    return decoded


def _json_or_empty(body: bytes) -> dict[str, Any]:
    try:
        return _json_object(body)
    except HTTPError:
        return {}
