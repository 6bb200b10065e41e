"""The HTTP application: its routes, fast path, event streams, API keys, errors and probes."""
