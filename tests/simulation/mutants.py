"""Mutants: the domain with one guard changed at a time, each given to the simulator, which must notice.

Changed are conditions (negated; one operand of and/or left out; bounds moved by one), whole `if` statements (left out),
calls made for their effect, counting for metrics excepted (left out), and rows of the transition table (left out). A mutant lives in a forked process: the
code of one function is replaced, so everybody who imported the function runs it. Survivors must stand in survivors.txt
with the reason why they are equivalent or out of the simulator's sight; the run fails on any other.
"""

from __future__ import annotations

import ast
import copy
import importlib
import os
import random
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import NamedTuple

from meshd.domain import transitions
from meshd.domain.values import TaskState
from tests.simulation.__main__ import failure_of
from tests.simulation.plan import make

HOUSE = Path(__file__).resolve().parents[2]
MODULES = (
    "meshd.domain.commit_barrier",
    "meshd.domain.handlers.admin",
    "meshd.domain.handlers.assign",
    "meshd.domain.handlers.attempts",
    "meshd.domain.handlers.drain",
    "meshd.domain.handlers.report",
    "meshd.domain.handlers.session",
    "meshd.domain.handlers.submit",
    "meshd.domain.handlers.tick",
    "meshd.domain.line",
    "meshd.domain.liveness",
    "meshd.domain.machine",
    "meshd.domain.placement.pools",
    "meshd.domain.queue",
    "meshd.domain.retry",
    "meshd.domain.swept_heap",
    "meshd.domain.transitions",
)
SURVIVORS = Path(__file__).with_name("survivors.txt")
SECONDS_PER_WORLD = 10
"""CPU time that a world may take; a mutant that takes more hangs, which counts as noticed."""
MEMORY_BYTES = 2 * 1024**3

SWAPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}


class Mutant(NamedTuple):
    """One change. ``name`` says where and what in words that survive other edits of the file."""

    name: str
    module: str
    function: str
    apply: Callable[[], None]


def mutants() -> list[Mutant]:
    """Return every mutant, in the order of the files."""
    found = [each for module in MODULES for each in _of_module(importlib.import_module(module))]
    for state, event in transitions.TABLE:
        name = f"transitions TABLE: leave out {state.name} {event.name}"
        found.append(Mutant(name, transitions.__name__, "TABLE", _without_row(state, event)))
    seen: dict[str, int] = {}
    numbered = []
    for each in found:
        seen[each.name] = seen.get(each.name, 0) + 1
        suffix = f" ({seen[each.name]})" if seen[each.name] > 1 else ""
        numbered.append(each._replace(name=each.name + suffix))
    return numbered


def _without_row(state: TaskState, event: transitions.Event) -> Callable[[], None]:
    return lambda: transitions.TABLE.__delitem__((state, event))


def _of_module(module: ModuleType) -> Iterator[Mutant]:
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    short = module.__name__.removeprefix("meshd.domain.").removeprefix("handlers.")
    for owner, function in _functions(tree):
        qualified = f"{owner}.{function.name}" if owner else function.name
        for path, words, change in _sites(function):
            name = f"{short} {qualified}: {words}"
            yield Mutant(name, module.__name__, qualified, _changed(module, tree, qualified, path, change))


def _functions(tree: ast.Module) -> Iterator[tuple[str, ast.FunctionDef]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield "", node
        elif isinstance(node, ast.ClassDef):
            for part in node.body:
                if isinstance(part, ast.FunctionDef):
                    yield node.name, part


Change = Callable[[ast.AST], ast.AST]


def _sites(function: ast.FunctionDef) -> Iterator[tuple[int, str, Change]]:
    """Yield (position in the walk over the function, what is changed in words, the change)."""
    for position, node in enumerate(ast.walk(function)):
        if isinstance(node, ast.If):
            test = ast.unparse(node.test)
            yield position, f"leave out if {test}", lambda _: ast.Pass()
            yield position, f"negate if {test}", _negate_test
        elif isinstance(node, ast.While | ast.IfExp):
            yield position, f"negate {ast.unparse(node.test)}", _negate_test
        elif isinstance(node, ast.comprehension):
            for number, test_node in enumerate(node.ifs):
                yield position, f"all of for/if {ast.unparse(test_node)}", _without_filter(number)
        elif isinstance(node, ast.BoolOp):
            for number, value in enumerate(node.values):
                words = f"leave out {ast.unparse(value)} of {ast.unparse(node)}"
                yield position, words, _without_operand(number)
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPPED:
            yield position, f"move the bound of {ast.unparse(node)}", _swap
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            if ast.unparse(node.value.func) == "out.count":
                continue
            yield position, f"leave out {ast.unparse(node)}", lambda _: ast.Pass()


def _negate_test(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.If | ast.While | ast.IfExp)
    node.test = ast.UnaryOp(ast.Not(), node.test)
    return node


def _without_filter(number: int) -> Change:
    def change(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.comprehension)
        del node.ifs[number]
        return node

    return change


def _without_operand(number: int) -> Change:
    def change(node: ast.AST) -> ast.AST:
        assert isinstance(node, ast.BoolOp)
        del node.values[number]
        return node.values[0] if len(node.values) == 1 else node

    return change


def _swap(node: ast.AST) -> ast.AST:
    assert isinstance(node, ast.Compare)
    node.ops[0] = SWAPPED[type(node.ops[0])]()
    return node


def _changed(
    module: ModuleType, tree: ast.Module, qualified: str, position: int, change: Change
) -> Callable[[], None]:
    def apply() -> None:
        changed = copy.deepcopy(tree)
        function = next(f for owner, f in _functions(changed) if qualified in (f.name, f"{owner}.{f.name}"))
        target = list(ast.walk(function))[position]
        _Replace(target, change(target)).visit(function)
        code = compile(ast.fix_missing_locations(changed), str(module.__file__), "exec")
        _function(module, qualified).__code__ = _code(code, qualified)

    return apply


class _Replace(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self._old = old
        self._new = new

    def visit(self, node: ast.AST) -> ast.AST:
        if node is self._old and self._new is not node:
            return self._new
        return self.generic_visit(node)


def _function(module: ModuleType, qualified: str) -> FunctionType:
    found: object = module
    for part in qualified.split("."):
        found = vars(found)[part]
    if isinstance(found, property):
        found = found.fget
    assert isinstance(found, FunctionType)
    return found


def _code(code: CodeType, qualified: str) -> CodeType:
    for part in code.co_consts:
        if isinstance(part, CodeType):
            if part.co_qualname == qualified:
                return part
            if qualified.startswith(f"{part.co_qualname}."):
                return _code(part, qualified)
    raise LookupError(qualified)


def killed(mutant: Mutant, seeds: int) -> bool:
    """Run the simulator over a mutant in a process of its own; return whether it noticed."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        try:
            mutant.apply()
            noticed = any(_breaks(seed) for seed in range(1, seeds + 1))
        except BaseException:  # noqa: BLE001  # whatever it is, the simulator noticed it
            noticed = True
        os._exit(1 if noticed else 0)
    _, status = os.waitpid(child, 0)
    return status != 0


def _breaks(seed: int) -> bool:
    limit_s = int(time.process_time()) + SECONDS_PER_WORLD
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))
    return failure_of(make(seed)) is not None


def _known_survivors() -> dict[str, str]:
    known: dict[str, str] = {}
    reason = ""
    for line in SURVIVORS.read_text().splitlines() if SURVIVORS.exists() else ():
        if line.startswith("#") or not line.strip():
            continue
        if line.startswith(" "):
            known[line.strip()] = reason
        else:
            reason = line.strip().rstrip(":")
    return known


def main(seeds: int, sample: int, only: str | None = None) -> int:
    """Run all mutants, a random sample of them, or those that a file names a line; return the exit status."""
    start = time.monotonic()
    chosen = mutants()
    if only is not None:
        names = {line.strip() for line in Path(only).read_text().splitlines()}
        chosen = [mutant for mutant in chosen if mutant.name in names]
    elif sample:
        chosen = random.Random(sample).sample(chosen, min(sample, len(chosen)))
    known = _known_survivors()
    survived: list[str] = []
    for number, mutant in enumerate(chosen, 1):
        if not killed(mutant, seeds):
            survived.append(mutant.name)
            mark = known.get(mutant.name, "NOT KNOWN")
            print(f"{number:4d}/{len(chosen)} survives: {mutant.name}    [{mark}]", flush=True)
    dead = len(chosen) - len(survived)
    unknown = [name for name in survived if name not in known]
    seconds = time.monotonic() - start
    print(f"{dead} of {len(chosen)} mutants killed ({100 * dead / len(chosen):.1f} %) in {seconds:.0f} s;")
    print(f"{len(survived) - len(unknown)} known survivors, {len(unknown)} not known")
    if not sample and only is None:
        stale = set(known) - set(survived)
        for name in sorted(stale):
            print(f"no longer survives: {name}")
    return 1 if unknown else 0
