"""Keys, tokens and proofs."""
