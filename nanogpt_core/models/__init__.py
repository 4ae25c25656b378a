"""Models: the packaged catalog, the service's live lists, and token counts."""
