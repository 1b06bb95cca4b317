"""Layers: frozen values that declare their arrays and apply pure functions to them."""

from typing import Any

from fnet.nn.combinators import Ensemble, Remat, Residual, Stack, restack, unstack
from fnet.nn.core import Layer, Model, Param, TransformError
from fnet.nn.dropout import Dropout
from fnet.nn.linear import Embedding, Linear
from fnet.nn.sequential import Sequential
from fnet.nn.shape import Flatten, Reshape

__all__ = [
    "Dropout", "Embedding", "Ensemble", "Flatten", "Layer", "Linear", "Model", "Param", "Remat", "Reshape", "Residual",
    "Sequential", "Stack", "TransformError", "restack", "unstack",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    from fnet import functional

    for function in functional.__all__:
        if function.replace("_", "").lower() == name.replace("_", "").lower():
            raise AttributeError(f"nn.{name} is a function in fnet: use F.{function} (import fnet.functional as F)")
    raise AttributeError(f"module 'fnet.nn' has no attribute {name!r}")
