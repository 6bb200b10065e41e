"""Looking a job up: the cache, the watchers, the response."""
