"""The pages are for people; `docs.generate` makes those that come from the code."""
