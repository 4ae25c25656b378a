"""Reports on requests: the log, usage, the hook ``on_request``, and OpenTelemetry's spans and metrics."""
