"""Helpers around the Python runtime: clock, threads, forks, and checks of option values."""
