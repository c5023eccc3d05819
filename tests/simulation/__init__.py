"""The simulator: the real domain, barrier and agent machine under seeded worlds of faults, in virtual time."""
