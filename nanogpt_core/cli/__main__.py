"""``python -m nanogpt_core.cli``: the command line, if ``nanogpt`` is not on the path."""

from __future__ import annotations

from nanogpt_core.cli.entry import main

if __name__ == "__main__":
    main()
