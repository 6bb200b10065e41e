"""Metrics of the service, and their text format for Prometheus."""
