"""Metrics: the state of the supervisor, and the exposition of all metrics to Prometheus."""
