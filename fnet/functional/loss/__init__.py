"""Losses, with PyTorch's definitions; classes and features are on the last axis.

All compute in at least float32 and return that (float64 stays float64). Two arguments are common to all:

    reduction   "mean" (the default), "sum", or "none" for one value per element
    mask        bool: False takes an element out, whatever is in it (NaN, an impossible label): it adds nothing to the
                value, the mean's divisor or the gradient. Its shape is that of the unreduced loss or of its leading
                axes, so a mask (batch,) drops whole examples.

A mean over nothing (all masked, all ignored, an empty batch) is 0 with gradient 0, where PyTorch's is NaN: one
micro-batch of padding must not destroy a run. A label out of range is a ValueError where its value can be read, and
makes the loss and the gradient NaN where it cannot (under jit), never a number.
"""

from fnet.functional.loss.binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    multilabel_soft_margin_loss,
    sigmoid_focal_loss,
    soft_margin_loss,
)
from fnet.functional.loss.classification import cross_entropy, nll_loss, softmax_focal_loss
from fnet.functional.loss.contrastive import (
    cosine_embedding_loss,
    nt_xent_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)
from fnet.functional.loss.fused import linear_cross_entropy
from fnet.functional.loss.margin import (
    hinge_embedding_loss,
    margin_ranking_loss,
    multi_margin_loss,
    multilabel_margin_loss,
)
from fnet.functional.loss.overlap import dice_loss
from fnet.functional.loss.regression import (
    gaussian_nll_loss,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    poisson_nll_loss,
    smooth_l1_loss,
)
from fnet.functional.loss.sequence import ctc_loss

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cosine_embedding_loss",
    "cross_entropy",
    "ctc_loss",
    "dice_loss",
    "gaussian_nll_loss",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "linear_cross_entropy",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "nt_xent_loss",
    "poisson_nll_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax_focal_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]
