"""HTTP: clients, deadlines, retries, rate limits and error mapping."""
