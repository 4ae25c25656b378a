"""One worker: ``python -m benchmarks.scale.worker OPTIONS`` embeds its own texts.

It prints a line when it is ready. For each line on its standard input, it embeds for ``seconds``, and prints its counts
as a JSON line. ``clock_error`` moves its wall clock: the limits must not depend on it.
"""

from __future__ import annotations

import json
import sys
import time
import warnings

from nanogpt_core import BudgetExceededError, Embedder, LimitsUnavailableError, NanoGPTError, RedisLimits


def main(options: dict) -> None:
    if options.get("clock_error"):
        true_time = time.time
        time.time = lambda: true_time() + options["clock_error"]
    limits = None
    if options.get("redis"):
        limits = RedisLimits(
            options["redis"], options["name"], options.get("requests_per_second"), options.get("budget_usd")
        )
    embedder = Embedder(
        api_key=options["api_key"],
        base_url=options["base_url"],
        limits=limits,
        requests_per_second=options.get("requests_per_second") if limits is None else None,
        max_concurrency=options["threads"],
        max_retries=options.get("max_retries", 20),
    )
    embedder.embed([f"worker {options['number']} warms up"])
    print("ready", flush=True)
    for number, _ in enumerate(sys.stdin):
        counts = embed_for(options["seconds"], embedder, f"worker {options['number']} round {number}", options)
        if limits is not None:
            limits.flush()
        print(json.dumps(counts), flush=True)


def embed_for(seconds: float, embedder: Embedder, name: str, options: dict) -> dict:
    """Embed new texts until the time is over, and return the counts."""
    began, cpu_began = time.monotonic(), time.process_time()
    end, call = began + seconds, 0
    counts = {"texts": 0, "refused": 0, "unavailable": 0, "failed": 0, "warnings": 0}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        while time.monotonic() < end:
            texts = [f"{name} call {call} text {n}" for n in range(options["texts"])]
            call += 1
            try:
                embedder.embed(texts, batch_size=options["batch_size"])
            except BudgetExceededError:
                counts["refused"] += 1
                time.sleep(0.05)
                continue
            except LimitsUnavailableError:
                counts["unavailable"] += 1
                time.sleep(0.05)
                continue
            except NanoGPTError:
                counts["failed"] += 1
                continue
            counts["texts"] += len(texts)
    counts["seconds"], counts["cpu_seconds"] = time.monotonic() - began, time.process_time() - cpu_began
    counts["warnings"] = sum("share of the last known rate" in str(one.message) for one in caught)
    return counts


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
