"""Formats of files with passages and vectors: Parquet, arrays of NumPy with JSON Lines, JSON Lines, and Lance."""
