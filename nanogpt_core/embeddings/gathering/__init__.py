"""Gathering: small calls that have to wait share requests.

To read it, begin with ``small_call`` (the part of a call) and the docstring of ``gatherer`` (all state), and go on with
``carrier`` and ``shared_batch`` (the requests). Reasons and figures: docs/adr/0060-gathered-batches.md.
"""
