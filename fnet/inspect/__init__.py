"""Tools that show what is in a model and what went wrong in it."""

from fnet.inspect.activations import Activations, activations
from fnet.inspect.footprint import Memory, memory
from fnet.inspect.gradients import GradientTable, gradient_table
from fnet.inspect.labels import Mislabelled, mislabelled
from fnet.inspect.layers import Summary, summary
from fnet.inspect.nans import Fault, find_nan
from fnet.inspect.noise import NoiseScale, noise_scale
from fnet.inspect.rates import RateTest, lr_finder
from fnet.inspect.replays import Replay, replay
from fnet.inspect.timing import Profile, profile

__all__ = [
    "Activations", "Fault", "GradientTable", "Memory", "Mislabelled", "NoiseScale", "Profile", "RateTest", "Replay",
    "Summary", "activations", "find_nan", "gradient_table", "lr_finder", "memory", "mislabelled", "noise_scale",
    "profile", "replay", "summary",
]  # fmt: skip
