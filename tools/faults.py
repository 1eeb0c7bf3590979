"""Generates the faults that can be planted in a module: small changes to its syntax tree, each in one place."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Fault", "faults"]

COMPARISONS: dict[type[ast.cmpop], list[type[ast.cmpop]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
}
STATEMENTS = (ast.Assign, ast.AugAssign, ast.Delete, ast.Raise, ast.Break, ast.Continue)


@dataclass(frozen=True)
class Fault:
    """One change; `str()` of it is a name that stays the same when lines move."""

    module: str
    name: str
    line: int
    source: str

    def __str__(self) -> str:
        return f"{self.module} {self.name}"


@dataclass(frozen=True)
class _Place:
    """A node, and its place: `getattr(parent, field)`, or an item of that list."""

    where: str
    parent: ast.AST
    field: str
    index: int | None
    node: ast.AST

    def put(self, node: ast.AST) -> None:
        if self.index is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index] = node


def _places(node: ast.AST, where: str = "") -> Iterator[_Place]:
    for field, value in ast.iter_fields(node):
        # Types are checked by mypy; defaults are behaviour.
        if field in ("annotation", "returns", "type_comment", "decorator_list", "bases"):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST):
                continue
            if isinstance(child, ast.ClassDef) and any(ast.unparse(b).startswith("Protocol") for b in child.bases):
                continue
            inside = where
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = f"{where}.{child.name}" if where else child.name
            elif not where and _is_declaration(child):
                continue
            yield _Place(inside, node, field, index, child)
            yield from _places(child, inside)


def _is_declaration(node: ast.AST) -> bool:
    """Return whether it is an import, alias or list of names at the top, which cannot be changed
    without breaking all.
    """
    if isinstance(node, ast.Assign):
        return not isinstance(node.value, ast.Constant | ast.BinOp)
    return isinstance(node, ast.Import | ast.ImportFrom | ast.AnnAssign | ast.If)


def _changes(place: _Place) -> Iterator[ast.AST]:
    """The possible replacements of a node."""
    node = place.node
    if isinstance(node, ast.Compare):
        for number, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                changed = copy.deepcopy(node)
                changed.ops[number] = other()
                yield changed
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in ARITHMETIC:
        changed = copy.deepcopy(node)
        changed.op = ARITHMETIC[type(node.op)]()
        yield changed
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield ast.Return(None)
    if isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Compare | ast.UnaryOp):
        changed = copy.copy(node)
        changed.test = ast.UnaryOp(ast.Not(), node.test)
        yield changed
    if isinstance(node, STATEMENTS) or (isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)):
        yield ast.Pass()


def _shown(node: ast.AST) -> str:
    """A node on one line, without the blocks below it."""
    if isinstance(node, ast.If | ast.While | ast.IfExp):
        node = node.test
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def faults(module: str, source: str) -> Iterator[Fault]:
    """All faults that can be planted in a module, in the order of its lines."""
    tree = ast.parse(source)
    seen: Counter[str] = Counter()
    for place in list(_places(tree)):
        for changed in _changes(place):
            name = f"{place.where or 'top'}: {_shown(place.node)} => {_shown(changed)}"
            seen[name] += 1
            if seen[name] > 1:
                name += f" ({seen[name]})"
            place.put(ast.copy_location(changed, place.node))
            yield Fault(module, name, getattr(place.node, "lineno", 0), ast.unparse(ast.fix_missing_locations(tree)))
            place.put(place.node)
