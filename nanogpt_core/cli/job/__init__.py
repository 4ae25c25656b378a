"""The state of a run of ``nanogpt embed``: passages, finished vectors, and the money that was spent."""
