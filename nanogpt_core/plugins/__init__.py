"""Base classes of both plugins' classes."""
