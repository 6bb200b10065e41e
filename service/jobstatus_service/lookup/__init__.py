"""Looking a job up: the cached responses, the watchers, and what a response is made of."""
