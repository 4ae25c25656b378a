"""Caches for embedding vectors."""
