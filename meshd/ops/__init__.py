"""Metrics, health, logging and the HTTP side port."""
