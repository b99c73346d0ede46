"""Metrics, predictions, benchmarks and their plots."""
