"""Named sets: each function gives (train, test). Images are HWC uint8 of 0 to 255, labels int32; texts are str."""

from .cifar_sets import cifar10, cifar100
from .digits import digits
from .idx_sets import fashion_mnist, kmnist, mnist
from .text_sets import tiny_shakespeare

__all__ = ["cifar10", "cifar100", "digits", "fashion_mnist", "kmnist", "mnist", "tiny_shakespeare"]
