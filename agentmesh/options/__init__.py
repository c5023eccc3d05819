"""Options that annotate the contract; everything below is generated from proto/."""
