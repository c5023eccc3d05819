"""One file per kind of command: what it changes and what leaves the mesh because of it."""
