"""`graph`: what a function computes, as operations and what flows between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import Literal

from fnet import tree
from fnet.autograd.jaxprs import called, is_backward, name_stack, part_of, subjaxprs

# These only change how a value is written down; the graph leads through them.
PASSED = set("broadcast_in_dim reshape squeeze convert_element_type stop_gradient copy copy_p".split())


@dataclass(frozen=True)
class Node:
    """An input, an operation or an output: its ``label``, the ``part`` it is in, its ``result``, its operands' nodes.

    ``kind`` is "input", "forward", "backward" or "output"; ``inputs`` are numbers of nodes.
    """

    label: str
    kind: str
    part: str
    result: str
    inputs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """What `graph` found: ``nodes``, each after those that it needs. Printed, it is a list by part."""

    nodes: tuple[Node, ...] = field(repr=False)

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*map(self._cells, self), strict=True)]
        lines: list[str] = []
        title = None
        for number, node in enumerate(self):
            if (heading := _heading(node)) != title:
                title = heading
                lines.append(title)
            cells = [cell.ljust(width) for cell, width in zip(self._cells(node), widths, strict=True)]
            lines.append(f"  {number:>3}  {'  '.join(cells)}".rstrip())
        return "\n".join(lines)

    __repr__ = __str__

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def _cells(self, node: Node) -> tuple[str, str, str]:
        return node.label, node.result, f"← {', '.join(map(str, node.inputs))}" if node.inputs else ""

    def dot(self) -> str:
        """The graph in the language of Graphviz, a box for each part: ``dot -Tsvg`` draws it."""
        colours = {"input": "#dbe9f6", "forward": "#e3f1df", "backward": "#fbe3d6", "output": "#eee6f5"}
        lines = ["digraph {", '  rankdir="TB"', '  node [shape=box, style="rounded,filled", fontname="Helvetica"]']
        groups: dict[str, list[int]] = {}
        for number, node in enumerate(self):
            groups.setdefault(_heading(node), []).append(number)
        for index, (title, numbers) in enumerate(groups.items()):
            lines += [f"  subgraph cluster_{index} {{", f"    label={_quoted(title)}"]
            for number in numbers:
                node = self.nodes[number]
                text = f"{node.label}\n{node.result}"
                lines.append(f'    n{number} [label={_quoted(text)}, fillcolor="{colours[node.kind]}"]')
            lines.append("  }")
        lines += [f"  n{source} -> n{number}" for number, node in enumerate(self) for source in node.inputs]
        return "\n".join([*lines, "}"])


def graph(f: Callable[..., Any], *args: Any) -> Graph:
    """The computation graph of ``f(*args)``, from an abstract trace: its operations by part of the model, with shapes.

    Arguments are trees of arrays or ShapeDtypeStructs, and inputs go by their dotted names. Calls are entered; a loop
    is one operation, as are its branches to a `cond`; operations that only reshape, broadcast or cast are left out,
    as are those that no result needs. ``plot.graph`` draws it, `Graph.dot` writes it for Graphviz.

    >>> import jax.numpy as jnp
    >>> print(graph(lambda p, x: jnp.tanh(x @ p["weight"]), {"weight": jnp.ones((3, 2))}, jnp.ones((4, 3))))
    inputs
        0  weight       float32[3, 2]
        1  1            float32[4, 3]
    operations
        2  dot_general  float32[4, 2]  ← 1, 0
        3  tanh         float32[4, 2]  ← 2
    outputs
        4  result       float32[4, 2]  ← 3
    """
    jaxpr, shapes = jax.make_jaxpr(f, return_shape=True)(*args)
    builder = _Builder()
    given = zip(_names(args), jaxpr.jaxpr.invars, strict=True)
    inputs: list[int | None] = [builder.add(name, "input", "", var.aval) for name, var in given]
    outputs = builder.enter(jaxpr, inputs, "")
    for (name, _), var, source in zip(_named(shapes), jaxpr.jaxpr.outvars, outputs, strict=True):
        builder.add(name or "result", "output", "", var.aval, () if source is None else (source,))
    return Graph(_needed(builder.nodes))


class _Builder:
    """The nodes so far. A value is the number of the node that gives it, None for a constant."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def add(self, label: str, kind: str, part: str, aval: Any, inputs: tuple[int, ...] = ()) -> int:
        self.nodes.append(Node(label, kind, part, f"{aval.dtype}{list(aval.shape)}", inputs))
        return len(self.nodes) - 1

    def enter(self, jaxpr: Any, args: list[int | None], outer: str) -> list[int | None]:
        values: dict[Any, int | None] = dict(zip(jaxpr.jaxpr.invars, args, strict=True))
        values.update(dict.fromkeys(jaxpr.jaxpr.constvars))

        def read(var: Any) -> int | None:
            return None if isinstance(var, Literal) else values[var]

        for eqn in jaxpr.jaxpr.eqns:
            if not eqn.outvars:
                continue  # a jax.debug.print: nothing flows from it
            given, stack = [read(var) for var in eqn.invars], name_stack(eqn, outer)
            if (function := called(eqn)) is not None:
                values.update(zip(eqn.outvars, self.enter(function, given, stack), strict=True))
                continue
            sources = tuple(dict.fromkeys(number for number in given if number is not None))
            if eqn.primitive.name in PASSED and len(sources) <= 1:
                values.update(dict.fromkeys(eqn.outvars, sources[0] if sources else None))
                continue
            kind = "backward" if is_backward(stack) else "forward"
            aval = eqn.outvars[0].aval
            number = self.add(_label(eqn), kind, part_of(stack), aval, sources)
            values.update(dict.fromkeys(eqn.outvars, number))
        return [read(var) for var in jaxpr.jaxpr.outvars]


def _label(eqn: Any) -> str:
    name = eqn.primitive.name
    if name == "scan":
        return f"scan of {eqn.params['length']} steps ({len(subjaxprs(eqn)[0].eqns)} operations)"
    if name == "integer_pow":
        return f"power {eqn.params['y']}"
    return str(name)


def _needed(nodes: list[Node]) -> tuple[Node, ...]:
    """The nodes that outputs depend on, and all inputs, with numbers of their own."""
    wanted = {number for number, node in enumerate(nodes) if node.kind in ("input", "output")}
    for number in reversed(range(len(nodes))):
        if number in wanted:
            wanted.update(nodes[number].inputs)
    order = {"input": 0, "forward": 1, "backward": 1, "output": 2}
    kept = sorted(wanted, key=lambda number: (order[nodes[number].kind], number))
    new = {number: index for index, number in enumerate(kept)}
    return tuple(
        Node(node.label, node.kind, node.part, node.result, tuple(new[i] for i in node.inputs))
        for node in (nodes[number] for number in kept)
    )


def _heading(node: Node) -> str:
    if node.kind in ("input", "output"):
        return f"{node.kind}s"
    if not node.part:
        return "backward pass" if node.kind == "backward" else "operations"
    return f"{node.part}, backward" if node.kind == "backward" else node.part


def _names(args: tuple[Any, ...]) -> list[str]:
    """Dotted names, with the number of the argument where another has the same."""
    named = [(str(index), name) for index, arg in enumerate(args) for name, _ in _named(arg)]
    plain = [name for _, name in named]
    return [name if name and plain.count(name) == 1 else f"{i}.{name}".rstrip(".") for i, name in named]


def _named(value: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree.leaves(value)
    return [("", value)] if len(leaves) == 1 and leaves[0] is value else list(tree.named(value))


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
