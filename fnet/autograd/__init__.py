"""Derivatives of functions of parameter trees: by name, by example, of second order; and a check of them all.

`jax.grad`, `jax.vjp` and the rest work on fnet's trees as they are. Here is what a tree with names adds to them.
"""

from fnet.autograd.check import GradientCheck, check_gradients
from fnet.autograd.derivatives import grad, hessian, hvp, jacobian, jvp, per_example, value_and_grad, vjp
from fnet.autograd.graphs import Graph, graph

__all__ = [
    "Graph", "GradientCheck", "check_gradients", "grad", "graph", "hessian", "hvp", "jacobian", "jvp", "per_example",
    "value_and_grad", "vjp",
]  # fmt: skip
