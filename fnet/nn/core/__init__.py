"""The layer contract: `Param`, `Layer`, `Model`."""

from fnet.nn.core.keys import TransformError
from fnet.nn.core.layer import Layer
from fnet.nn.core.model import Model
from fnet.nn.core.param import Param

__all__ = ["Layer", "Model", "Param", "TransformError"]
