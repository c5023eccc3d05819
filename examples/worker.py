"""A worker: `python examples/worker.py` on the host of a running meshd, with nothing else set up."""

from agentmesh import Agent, TaskContext

agent = Agent("worker-1")


@agent.task("data-processing")
def process(task: TaskContext) -> dict[str, object]:
    return {"received": task.json(), "attempt": task.attempt}


if __name__ == "__main__":
    agent.run()
