"""Protocols that the engine needs and the floors above implement."""
