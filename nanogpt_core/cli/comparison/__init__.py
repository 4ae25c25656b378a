"""The parts of ``nanogpt compare``: reading, the consent to costs, and output."""
