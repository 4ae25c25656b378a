"""Models: the packaged table, the service's live lists and token counts."""
