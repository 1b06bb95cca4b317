"""Weights from PyTorch and back: files read without running them, layouts by kind of layer, parity by output."""

from fnet.io.pytorch.files import read_torch
from fnet.io.pytorch.parity import Parity, compare_with_torch
from fnet.io.pytorch.weights import from_torch, to_torch

__all__ = ["Parity", "compare_with_torch", "from_torch", "read_torch", "to_torch"]
