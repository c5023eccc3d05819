"""The rules of the mesh, pure: no I/O, no clock, no randomness but what is handed in."""
