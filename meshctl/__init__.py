"""The command line of Agent Mesh: a thin client over the same public contract that agents use.

Rule: this package imports `agentmesh`, click, rich and platformdirs, never `meshd`. Modules that import gRPC
or protobuf are loaded by the command that needs them, so that `meshctl --help` stays quick.
"""
