"""The command line ``nanogpt``: one module per command, each a thin face over the public API."""
