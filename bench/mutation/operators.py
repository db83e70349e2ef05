"""The small errors that a line of training code is given, one at a time, as syntax trees.

Ours rather than a library's (mutmut, cosmic-ray): theirs do not know the errors that matter here (train for eval, sum
for mean, a gradient that is not stopped), and start a process a mutant, which costs more than most of our tests.

Messages, annotations, assertions and progress are left alone: no test should depend on them.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
}
COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
NAMES = {
    **{
        first: second
        for pair in (("train", "eval"), ("mean", "sum"), ("min", "max"), ("any", "all"))
        for first, second in (pair, pair[::-1])
    },
    **{
        "no_grad": "enable_grad",
        "floor": "ceil",
        "ceil": "floor",
        "argsort": "argmax",
        "log": "exp",
        "sigmoid": "tanh",
    },
}
"""Methods and functions that stand for each other at a call."""
DROPPED = frozenset({"detach", "abs", "square", "sqrt", "clip", "clamp"})
"""Methods without whose call the rest still computes."""
GUARD = 1e-5
"""Smaller numbers keep a division or a logarithm finite: no result shows whether they are twice as large."""
SILENT = frozenset({"on_batch", "on_step", "check_cancelled", "log", "progress", "warn", "print", "report", "flush"})
"""Calls that only tell somebody something."""


@dataclass(frozen=True)
class Mutant:
    """One wrong line: ``path`` from the root, ``line`` from 1, what it says instead of what, and the whole module."""

    path: str
    line: int
    operator: str
    before: str
    after: str
    tree: ast.Module

    @property
    def told(self) -> str:
        """The change in one line."""
        return f"{self.path}:{self.line} {self.operator}: {self.before} -> {self.after}"

    @property
    def code(self) -> str:
        """The name of the mutated module: two mutants of one line may be told alike."""
        return hashlib.sha256(f"{self.path} {ast.dump(self.tree)}".encode()).hexdigest()[:16]


def mutants(path: str, text: str) -> Iterator[Mutant]:
    """Yield every mutant of a module, in the order of its nodes."""
    tree = ast.parse(text, filename=path)
    for index, node in enumerate(_nodes(tree)):
        for number, (operator, after) in enumerate(_variants(node)):
            twin = copy.deepcopy(tree)
            twin_node = list(_nodes(twin))[index]
            replacement = list(_variants(twin_node))[number][1]
            _put(twin, twin_node, replacement)
            ast.fix_missing_locations(twin)
            yield Mutant(path, node.lineno, operator, _short(node), _short(after), twin)


def _nodes(tree: ast.Module) -> Iterator[ast.expr | ast.stmt]:
    """Yield the statements and expressions whose value a test should notice."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, (ast.Raise, ast.Assert, ast.Import, ast.ImportFrom, ast.JoinedStr)) or _is_message(node):
            continue
        if isinstance(node, (ast.expr, ast.stmt)):
            yield node
        waiting.extend(reversed(list(_children(node))))


def _children(node: ast.AST) -> Iterator[ast.AST]:
    skipped = {
        "annotation",
        "returns",
        "decorator_list",
        "type_comment",
        "bases",
        "keywords" if isinstance(node, ast.ClassDef) else "",
    }
    for name, value in ast.iter_fields(node):
        if name not in skipped:
            yield from (item for item in (value if isinstance(value, list) else [value]) if isinstance(item, ast.AST))


def _is_message(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id == "UserError" or node.func.id.endswith("Error")
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) or _called(node.value) in SILENT
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _called(node: ast.AST) -> str:
    """Return the last name of what a call calls."""
    if not isinstance(node, ast.Call):
        return ""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _variants(node: ast.expr | ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    """Yield (operator, replacement) for one node; the replacement holds the node's own children."""
    if isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in ARITHMETIC and not _joins_words(node):
        yield "arithmetic", _with(node, op=ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield "comparison", _with(node, ops=[COMPARISONS[type(node.ops[0])](), *node.ops[1:]])
    elif isinstance(node, ast.BoolOp):
        yield "boolean", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield "sign", node.operand
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield "condition", _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "dropped call", ast.Pass()
    elif isinstance(node, ast.Call):
        yield from _calls(node)


def _constants(node: ast.Constant) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node.value, bool):
        yield "truth", ast.Constant(not node.value)
    elif isinstance(node.value, int):
        yield "number", ast.Constant(node.value + 1)
    elif isinstance(node.value, float) and not 0 < node.value < GUARD:
        yield "number", ast.Constant(2 * node.value if node.value else 1.0)


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    name = _called(node)
    if name in NAMES:
        other = NAMES[name]
        func = _with(node.func, attr=other) if isinstance(node.func, ast.Attribute) else ast.Name(other, ast.Load())
        yield "name", _with(node, func=func)
    elif name in DROPPED and isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
        yield "dropped method", node.func.value
    elif len(node.args) >= 2 and all(isinstance(arg, (ast.Name, ast.Attribute)) for arg in node.args[:2]):
        yield "swapped arguments", _with(node, args=[node.args[1], node.args[0], *node.args[2:]])


def _joins_words(node: ast.BinOp | ast.AugAssign) -> bool:
    """Return whether a sum is one of texts or a product fills a list: the change would be a crash, not an error."""
    parts = (node.left, node.right) if isinstance(node, ast.BinOp) else (node.value,)
    return any(
        isinstance(part, (ast.JoinedStr, ast.List, ast.Tuple)) or isinstance(getattr(part, "value", None), str)
        for part in parts
    )


def _with(node: ast.AST, **changes: object) -> ast.AST:
    twin = copy.copy(node)
    for name, value in changes.items():
        setattr(twin, name, value)
    return twin


def _put(tree: ast.Module, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
                return
            if isinstance(value, list):
                for position, item in enumerate(value):
                    if item is old:
                        value[position] = new
                        return
    raise ValueError("the node is not in the tree")


def _short(node: ast.AST) -> str:
    words = " ".join(ast.unparse(ast.fix_missing_locations(copy.deepcopy(node))).split())
    return words if len(words) <= 60 else f"{words[:57]}..."
