"""Helpers around the Python runtime: clock, threads and forks."""
