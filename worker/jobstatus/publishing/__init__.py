"""The publisher: delivers reports to Redis from a thread of its own."""
