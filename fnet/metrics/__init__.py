"""Metrics: functions of one batch, and streaming values for whole data sets.

A function such as `accuracy` gives a scalar for a batch. A value such as `F1(10)` is a `Metric`: `init`, `update`,
`merge` and `compute` give the measure of all batches together, which is not a mean over batches. Both can be given to
`train.supervised(model, loss, metrics={…})`, and `train.evaluate` then merges the second kind exactly.
"""

from fnet.metrics.classification import (
    F1,
    Accuracy,
    ConfusionMatrix,
    Dice,
    IoU,
    Precision,
    Recall,
    TopKAccuracy,
    accuracy,
    top_k_accuracy,
)
from fnet.metrics.core import Metric, Partial
from fnet.metrics.curves import (
    ROCAUC,
    AveragePrecision,
    average_precision,
    precision_recall_curve,
    roc_auc,
    roc_curve,
)
from fnet.metrics.values import MAE, MSE, R2, CalibrationError, Correlation, Perplexity

__all__ = [
    "F1", "MAE", "MSE", "R2", "ROCAUC", "Accuracy", "AveragePrecision", "CalibrationError", "ConfusionMatrix",
    "Correlation", "Dice", "IoU", "Metric", "Partial", "Perplexity", "Precision", "Recall", "TopKAccuracy",
    "accuracy", "average_precision", "precision_recall_curve", "roc_auc", "roc_curve", "top_k_accuracy",
]  # fmt: skip
