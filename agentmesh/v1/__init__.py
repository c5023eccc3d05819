"""Generated from proto/agentmesh/v1 by `make proto`; not edited by hand."""
