"""The HTTP application: routes, fast path, streams, API keys, errors, health."""
