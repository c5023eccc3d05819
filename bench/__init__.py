"""The benchmark: `python -m bench`. Each figure is a median of rounds, or a ratio measured in the same run."""
