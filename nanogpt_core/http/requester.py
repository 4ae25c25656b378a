"""Old name of :mod:`nanogpt_core.http.client`, until its users follow."""

from __future__ import annotations

from nanogpt_core.http.client import HttpClient as Requester

__all__ = ["Requester"]
