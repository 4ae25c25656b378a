"""Old name of :mod:`nanogpt_core.http.library`, until its users follow."""

from __future__ import annotations

from nanogpt_core.http.library import httpx as http

__all__ = ["http"]
