"""Applications that `python -m tests.bench read` compares the service with."""
