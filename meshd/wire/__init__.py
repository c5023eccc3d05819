"""gRPC: server, interceptors, codec and services. Thin: no rule lives here."""
