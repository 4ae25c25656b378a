"""Speed and memory of ``nanogpt embed``, beside ``Embedder.stream``."""
