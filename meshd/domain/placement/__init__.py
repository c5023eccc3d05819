"""One file per strategy of choosing an agent."""
