"""meshd, the daemon of Agent Mesh: a gRPC control plane for fleets of agents."""
