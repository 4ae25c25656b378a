"""``nanogpt sandbox``: a local NanoGPT API in the foreground."""

from __future__ import annotations

from typing import Literal

from cyclopts import App

_EXAMPLES = """\
Examples:
  nanogpt sandbox              prints two lines to paste into another terminal
  nanogpt sandbox --latency 0.2 --requests-per-second 25

It needs no key and costs nothing: vectors are made of words, answers of quotes;
no model runs. `python -m nanogpt_core.sandbox` is the same.
"""

command = App(name="sandbox", help_epilogue=_EXAMPLES)


@command.default
def sandbox(
    *,
    host: str = "127.0.0.1",
    port: int = 8765,
    allow_remote: bool = False,
    api_key: str = "sk-nano-sandbox",
    latency: float = 0.0,
    requests_per_second: float | None = None,
    requests_per_day: int | None = None,
    reference_page: bool = False,
    report_cost: bool = False,
    width_source: Literal["true", "listed"] = "true",
    no_vendor_limits: bool = False,
    refuse_base64: bool = False,
    ignore_base64: bool = False,
    shuffle: bool = False,
) -> int:
    """Run a local NanoGPT API for trials and tests, until Ctrl-C.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        allow_remote: Let `--host` be an address that other machines can reach.
        api_key: Key that requests must carry. It is worth nothing elsewhere.
        latency: Minimum duration of every request, in seconds.
        requests_per_second: Answer 429 over this rate. Default: no limit.
        requests_per_day: Answer 429 over this number in a day. Default: no limit.
        reference_page: The models and errors of NanoGPT's reference page.
        report_cost: Give the cost in replies.
        width_source: Dimensions of the vectors: those of the model cards, or those that NanoGPT lists.
        no_vendor_limits: Take 2048 texts a request for every model.
        refuse_base64: Answer 400 to `encoding_format="base64"`.
        ignore_base64: Answer floats for every `encoding_format`.
        shuffle: Return vectors out of order.
    """
    from nanogpt_core.sandbox.__main__ import serve

    return serve(
        host=host,
        port=port,
        allow_remote=allow_remote,
        api_key=api_key,
        latency=latency,
        requests_per_second=requests_per_second,
        requests_per_day=requests_per_day,
        reference_page=reference_page,
        report_cost=report_cost,
        width_source=width_source,
        vendor_limits=False if no_vendor_limits else None,
        refuse_base64=refuse_base64,
        ignore_base64=ignore_base64,
        shuffle=shuffle,
    )
