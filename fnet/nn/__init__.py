"""Layers: frozen values that declare their arrays and apply pure functions to them."""

import re
from typing import Any

from fnet.nn.activation import PReLU
from fnet.nn.attention import MultiHeadAttention, MultiheadAttention
from fnet.nn.branches import Lambda, Parallel
from fnet.nn.combinators import Ensemble, Remat, Residual, Stack, restack, unstack
from fnet.nn.conv import (
    Conv,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Fold,
    Unfold,
)
from fnet.nn.core import Layer, Model, Param, TransformError
from fnet.nn.dropout import AlphaDropout, Dropout, Dropout1d, Dropout2d, Dropout3d, DropPath, FeatureAlphaDropout
from fnet.nn.embedding import Embedding, EmbeddingBag
from fnet.nn.gated import GEGLU, SwiGLU
from fnet.nn.linear import Bilinear, Linear
from fnet.nn.moe import MoE
from fnet.nn.norm import (
    BatchNorm,
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm,
    InstanceNorm1d,
    InstanceNorm2d,
    InstanceNorm3d,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
)
from fnet.nn.pooling import (
    AdaptiveAvgPool,
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveAvgPool3d,
    AdaptiveMaxPool,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AdaptiveMaxPool3d,
    AvgPool,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    GlobalAvgPool,
    GlobalMaxPool,
    LPPool,
    LPPool1d,
    LPPool2d,
    LPPool3d,
    MaxPool,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
    MaxUnpool,
    MaxUnpool1d,
    MaxUnpool2d,
    MaxUnpool3d,
)
from fnet.nn.position import LearnedPosition, RoPE, SinusoidalPosition
from fnet.nn.recurrent import GRU, LSTM, RNN, ConvLSTMCell, ElmanRNN, GRUCell, LSTMCell, RNNCell
from fnet.nn.resize import ChannelShuffle, PixelShuffle, PixelUnshuffle, Upsample
from fnet.nn.sequential import Sequential
from fnet.nn.shape import Flatten, Identity, Reshape, Unflatten
from fnet.nn.transformer import (
    LinearLike,
    Transformer,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)

__all__ = [
    "AdaptiveAvgPool", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AdaptiveAvgPool3d", "AdaptiveMaxPool",
    "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AdaptiveMaxPool3d", "AlphaDropout", "AvgPool", "AvgPool1d", "AvgPool2d",
    "AvgPool3d", "BatchNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "Bilinear", "ChannelShuffle", "Conv",
    "Conv1d", "Conv2d", "Conv3d", "ConvLSTMCell", "ConvTranspose", "ConvTranspose1d", "ConvTranspose2d",
    "ConvTranspose3d", "DropPath", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "ElmanRNN", "Embedding",
    "EmbeddingBag", "Ensemble", "FeatureAlphaDropout", "Flatten", "Fold", "GEGLU", "GRU", "GRUCell", "GlobalAvgPool",
    "GlobalMaxPool", "GroupNorm", "Identity", "InstanceNorm", "InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d",
    "LPPool", "LPPool1d", "LPPool2d", "LPPool3d", "LSTM", "LSTMCell", "Lambda", "Layer", "LayerNorm", "LearnedPosition",
    "Linear", "LinearLike", "LocalResponseNorm", "MaxPool", "MaxPool1d", "MaxPool2d", "MaxPool3d", "MaxUnpool",
    "MaxUnpool1d", "MaxUnpool2d", "MaxUnpool3d", "MoE", "Model", "MultiHeadAttention", "MultiheadAttention", "PReLU",
    "Parallel", "Param", "PixelShuffle", "PixelUnshuffle", "RMSNorm", "RNN", "RNNCell", "Remat", "Reshape", "Residual",
    "RoPE", "Sequential", "SinusoidalPosition", "Stack", "SwiGLU", "TransformError", "Transformer",
    "TransformerDecoder", "TransformerDecoderLayer", "TransformerEncoder", "TransformerEncoderLayer", "Unflatten",
    "Unfold", "Upsample", "restack", "unstack",
]  # fmt: skip


PYTORCH = {
    "Module": "nn.Model(function, **parts)",
    "ModuleList": "a list of layers",
    "ModuleDict": "a dict of layers",
    "Parameter": "nn.Param(shape, init), an array that init draws",
    "ParameterList": "a list of nn.Param",
    "ParameterDict": "a dict of nn.Param",
    "SyncBatchNorm": "nn.BatchNorm, whose statistics are those of the whole batch on any number of devices",
    "Softmax2d": "F.softmax (channels are last)",
    "UpsamplingNearest2d": "nn.Upsample(scale_factor=2)",
    "UpsamplingBilinear2d": 'nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)',
    "DataParallel": "fnet.parallel: parameters and batches are arrays like any other, placed with jax.device_put",
    "init": "fnet.init",
    "BCELoss": "F.binary_cross_entropy",
    "BCEWithLogitsLoss": "F.binary_cross_entropy_with_logits",
}


def __getattr__(name: str) -> Any:
    from fnet import functional
    from fnet.selectors import hint

    if name in PYTORCH:
        raise AttributeError(f"nn.{name} is {PYTORCH[name]} in fnet")
    if name.startswith("Lazy") and name[4:] in __all__:
        raise AttributeError(f"nn.{name} is nn.{name[4:]} in fnet, where sizes are always read from the input")
    if re.fullmatch(r"(Zero|Constant|Reflection|Replication|Circular)Pad[123]d", name):
        raise AttributeError(f"nn.{name} is a function in fnet: use F.pad with its mode (import fnet.functional as F)")
    plain = name.replace("_", "").lower()
    for function in functional.__all__:
        if function.replace("_", "").lower() in (plain, plain.removesuffix("loss")):
            raise AttributeError(f"nn.{name} is a function in fnet: use F.{function} (import fnet.functional as F)")
    raise AttributeError(f"module 'fnet.nn' has no {name!r}; {hint(name, __all__)}")
