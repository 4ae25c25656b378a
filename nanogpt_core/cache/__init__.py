"""Caches for vectors."""
