"""Small calls that have to wait share requests: docs/adr/0060-gathered-batches.md."""
