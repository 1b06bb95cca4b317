"""Reference models, each short enough to read in one sitting and made of public parts.

Each function gives an `nn.Model`, a value: print it, take parts of it, exchange them. Where other libraries publish
weights, names and numbers are theirs, or a table here maps them, for ``io.from_torch``.
"""

from fnet.models.bert import BERT_NAMES, bert
from fnet.models.convnext import convnext, convnext_tiny
from fnet.models.generate import generate, kept
from fnet.models.gpt import gpt, gpt2_arrays, gpt_init
from fnet.models.lenet import lenet
from fnet.models.llama import LLAMA_NAMES, llama
from fnet.models.lstm_lm import lstm_lm
from fnet.models.mobilenet import mobilenet_v2
from fnet.models.perceptron import mlp
from fnet.models.resnet import (
    RESNET_INIT,
    resnet18,
    resnet20,
    resnet32,
    resnet34,
    resnet50,
    resnet56,
    resnet101,
)
from fnet.models.seq2seq import encoder_decoder, translate
from fnet.models.unet import unet
from fnet.models.vae import elbo, vae
from fnet.models.vit import VIT_NAMES, vit

__all__ = [
    "BERT_NAMES", "LLAMA_NAMES", "RESNET_INIT", "VIT_NAMES", "bert", "convnext", "convnext_tiny", "elbo",
    "encoder_decoder", "generate", "gpt", "gpt2_arrays", "gpt_init", "kept", "lenet", "llama", "lstm_lm", "mlp",
    "mobilenet_v2", "resnet18", "resnet20", "resnet32", "resnet34", "resnet50", "resnet56", "resnet101", "translate",
    "unet", "vae", "vit",
]  # fmt: skip
