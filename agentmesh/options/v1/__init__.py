"""Generated from proto/agentmesh/options/v1 by `make proto`; not edited by hand."""
