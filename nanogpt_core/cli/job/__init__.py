"""The parts of ``nanogpt embed``: a job, its state between runs, the requests, the money and the manifest."""
