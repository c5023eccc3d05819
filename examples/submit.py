"""A client: `python examples/submit.py` submits one task for examples/worker.py and prints its result."""

from agentmesh import SyncMesh

with SyncMesh() as mesh:
    submitted = mesh.submit("data-processing", {"data": "example"}, priority="high", timeout_s=300)
    print(f"{submitted.task_id} is on its way")
    print(mesh.result(submitted.task_id, timeout_s=300))
