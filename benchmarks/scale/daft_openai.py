"""Daft's own OpenAI provider on the texts of the Daft case.

``python -m benchmarks.scale.daft_openai BASE_URL KEY OPTIONS``, with options of ``embed_text`` as JSON, prints the
number of rows. The engines' case runs it as a process that it can end.
"""

from __future__ import annotations

import json
import sys


def main(base_url: str, api_key: str, options: str) -> None:
    import daft
    from daft.ai.openai.provider import OpenAIProvider
    from daft.functions import embed_text

    from benchmarks.scale.engines import DAFT_BATCH_SIZE, DAFT_TEXTS, DIMENSIONS

    provider = OpenAIProvider(base_url=base_url, api_key=api_key)
    # Without the last option, a provider with a base URL does not send the dimensions.
    given = {"dimensions": DIMENSIONS, "batch_size": DAFT_BATCH_SIZE, "supports_overriding_dimensions": True}
    column = embed_text(daft.col("text"), provider=provider, **given, **json.loads(options))
    found = daft.from_pydict({"text": DAFT_TEXTS}).with_column("embedding", column).to_pydict()
    print(len(found["embedding"]))


if __name__ == "__main__":
    main(*sys.argv[1:])
