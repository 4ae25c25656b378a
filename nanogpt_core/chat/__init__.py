"""Chat completions through the OpenAI SDK."""
