"""A worker of the demo: parses a Python module and says what is in it. `Agent` reads its id from the environment."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator

from agentmesh import Agent, NonRetryable, TaskContext

#: Each of these adds a way through a function.
_BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
    ast.comprehension,
    ast.match_case,
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

agent = Agent(slots=4)


@agent.task("analyse-module")
def analyse_module(task: TaskContext) -> dict[str, object]:
    warnings.simplefilter("ignore")  # about escapes in string literals of old modules
    try:
        tree = ast.parse(task.payload)
    except SyntaxError as error:
        raise NonRetryable(f"line {error.lineno} is no Python") from None
    nodes = list(ast.walk(tree))
    return {
        "lines": task.payload.count(b"\n"),
        "functions": sum(isinstance(node, _FUNCTIONS) for node in nodes),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "imports": sum(len(node.names) for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))),
        "most_complex": max(complexities(tree), key=lambda found: found["complexity"], default=None),
    }


def complexities(tree: ast.Module) -> Iterator[dict[str, int | str]]:
    """Yields name, line and cyclomatic complexity of every function; what is nested counts for itself."""
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        prefix, scope = waiting.pop()
        ways = 1
        nodes = list(ast.iter_child_nodes(scope))
        while nodes:
            node = nodes.pop()
            if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                waiting.append((f"{prefix}{node.name}.", node))
                continue
            ways += isinstance(node, _BRANCHES)
            if isinstance(node, ast.BoolOp):
                ways += len(node.values) - 1
            nodes.extend(ast.iter_child_nodes(node))
        if isinstance(scope, _FUNCTIONS):
            yield {"name": prefix[:-1], "line": scope.lineno, "complexity": ways}


if __name__ == "__main__":
    agent.run()
