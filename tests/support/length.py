"""Length of tests with kills or random examples: `make kill` sets LONG_TESTS."""

import os

# Not a variable of the product's: conftest.py removes those.
LONG = bool(os.environ.get("LONG_TESTS"))


def usual_or_long(usual, long):
    """Return the first number in the usual run, and the second in the long one."""
    return long if LONG else usual
