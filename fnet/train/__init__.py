"""Training: the run as one pytree, the step, the loop, evaluation."""

from fnet.train.evaluation import evaluate, predict
from fnet.train.history import History
from fnet.train.loop import Stop, fit
from fnet.train.state import TrainState, start
from fnet.train.step import make_step, supervised

__all__ = ["History", "Stop", "TrainState", "evaluate", "fit", "make_step", "predict", "start", "supervised"]
