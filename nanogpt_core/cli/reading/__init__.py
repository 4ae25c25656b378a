"""Reading of documents and records, into passages."""
