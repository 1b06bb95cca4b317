"""Training: the run as one pytree, the step, the loop, evaluation."""

from fnet.train.callbacks import (
    Stop,
    averaged,
    early_stopping,
    every,
    print_samples,
    reduce_on_plateau,
    stop_on_nan,
    time_limit,
)  # fmt: skip
from fnet.train.dispatch import many_steps
from fnet.train.evaluation import evaluate, predict
from fnet.train.history import History
from fnet.train.loop import fit
from fnet.train.retrace import Retraced
from fnet.train.sinks import CSV, JSONLines, TensorBoard
from fnet.train.state import TrainState, start
from fnet.train.step import make_step, supervised

__all__ = [
    "CSV", "History", "JSONLines", "Retraced", "Stop", "TensorBoard", "TrainState", "averaged", "early_stopping",
    "evaluate", "every", "fit", "make_step", "many_steps", "predict", "print_samples", "reduce_on_plateau", "start",
    "stop_on_nan", "supervised", "time_limit",
]  # fmt: skip
