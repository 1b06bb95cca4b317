"""examples/cifar10.py in PyTorch: the same ResNet-20, images, augmentation, schedule and optimizer, to compare with.

It takes the time of training steps of fnet, and of PyTorch in both of its memory formats, turn about, and prints the
medians. With ``--train`` it trains as the example does and prints the accuracy; what was stopped goes on from its last
epoch. Both begin from PyTorch's usual initial values.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
from cifar10 import MEAN, STD, find_images

from fnet import data


class Block(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if h.shape != x.shape:  # option A: every second position, and channels of zeros
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, h.shape[1] - x.shape[1]))
        return F.relu(h + x)


def resnet20(classes: int) -> nn.Module:
    blocks = [Block(16, 16, 1) for _ in range(3)]
    blocks += [Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1)]
    blocks += [Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1)]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def augment(images: torch.Tensor) -> torch.Tensor:
    """Move each image (n, height, width, 3) by up to 4 pixels, over black, and mirror half of them."""
    n, size, _, _ = images.shape
    padded = F.pad(images, (0, 0, 4, 4, 4, 4))
    top, left = torch.randint(9, (2, n, 1))
    rows, columns = top + torch.arange(size), left + torch.arange(size)
    columns = torch.where(torch.rand(n, 1) < 0.5, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Bytes (n, height, width, 3) to floats (n, 3, height, width), in channels-last memory."""
    return ((images.float() / 255 - torch.from_numpy(MEAN)) / torch.from_numpy(STD)).permute(0, 3, 1, 2)


def train_step(
    model: nn.Module, opt: Any, images: torch.Tensor, labels: torch.Tensor, layout: Any = torch.channels_last
) -> torch.Tensor:
    opt.zero_grad()
    loss = F.cross_entropy(model(normalise(augment(images)).contiguous(memory_format=layout)), labels)
    loss.backward()
    opt.step()
    return loss


def whole(dataset: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images, labels = data.DataLoader(dataset, batch_size=len(dataset)).batch(0)
    return torch.from_numpy(images), torch.from_numpy(labels).long()


def sgd(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4, nesterov=True)


def time_steps(rounds: int, steps: int = 4) -> None:
    """Print the median time of a step of each, and of fnet's ratio to it, over rounds of some steps of each in turn."""
    import jax
    from cifar10 import DEVICES, forward

    import fnet
    from fnet import functional, metrics, models, optim, parallel, train
    from fnet import nn as fnn

    fnet.keep_memory()  # as in the example; it holds for PyTorch too
    jax.config.update("jax_num_cpu_devices", DEVICES)
    images, labels = torch.randint(256, (128, 32, 32, 3), dtype=torch.uint8), torch.randint(10, (128,))
    batch = images.numpy(), labels.int().numpy()
    ours = fnn.Model(forward, net=models.resnet20(10))
    rule = optim.sgd(optim.one_cycle(0.2, steps=1170), momentum=0.9, weight_decay=5e-4, nesterov=True)
    run = train.start(ours, rule, jax.random.key(0), batch[0])
    step = train.make_step(train.supervised(ours, functional.cross_entropy, {"accuracy": metrics.accuracy}), rule)
    step, run = parallel.data_parallel(step, run, parallel.mesh(data=-1))
    state = [run]

    def fnet_step() -> None:
        state[0], _ = step(state[0], batch)
        jax.block_until_ready(state[0])

    def torch_step(layout: Any) -> Any:
        model = resnet20(10).to(memory_format=layout)
        opt = sgd(model, 0.01)
        return lambda: train_step(model, opt, images, labels, layout).item()

    each = {
        "fnet": fnet_step,
        "PyTorch, channels last": torch_step(torch.channels_last),
        "PyTorch, channels first": torch_step(torch.contiguous_format),
    }
    times: dict[str, list[float]] = {name: [] for name in each}
    for _ in range(rounds + 1):
        for name, one in each.items():
            one()  # what the others left in the caches, and in their threads, is not counted
            begin = time.perf_counter()
            for _ in range(steps):
                one()
            times[name].append((time.perf_counter() - begin) / steps)
    for name, seconds in times.items():
        ratio = statistics.median(ours / other for ours, other in zip(times["fnet"][1:], seconds[1:], strict=True))
        milliseconds = 1e3 * statistics.median(seconds[1:])
        print(f"{name:24} {milliseconds:6.0f} ms a step of 128 images; fnet takes {ratio:.2f} of it")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=5, help="of timed steps")
    parser.add_argument("--train", action="store_true", help="train instead")
    parser.add_argument("--channels-first", action="store_true", help="train so: PyTorch's default, slower here")
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10-torch"), help="folder of images and checkpoint")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    if not args.train:
        return time_steps(args.rounds)

    folder = find_images(args.data, args.out)
    (images, labels), (test_images, test_labels) = (whole(data.ImageFolder(folder / p)) for p in ("train", "test"))
    layout = torch.contiguous_format if args.channels_first else torch.channels_last
    model = resnet20(int(labels.max()) + 1).to(memory_format=layout)
    opt, per_epoch, first, before = sgd(model, 0.2), len(images) // 128, 0, 0.0
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 0.2, args.epochs * per_epoch, cycle_momentum=False)
    parts, saved = (model, opt, schedule), args.out / "torch.pt"
    if saved.is_file():
        states, first, before, random = torch.load(saved)
        torch.set_rng_state(random)
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
    begin = time.perf_counter() - before
    for epoch in range(first, args.epochs):
        model.train()
        for chosen in torch.randperm(len(images))[: per_epoch * 128].view(per_epoch, 128):
            loss = train_step(model, opt, images[chosen], labels[chosen], layout)
            schedule.step()
        model.eval()
        with torch.no_grad():
            outputs = torch.cat([model(normalise(part)) for part in test_images.split(250)])
        right = (outputs.argmax(1) == test_labels).double().mean().item()
        seconds = time.perf_counter() - begin
        print(f"epoch {epoch + 1}: last loss {loss.item():.3f}, {right:.2%} right, {seconds:.0f} s", flush=True)
        torch.save(([part.state_dict() for part in parts], epoch + 1, seconds, torch.get_rng_state()), f"{saved}.part")
        Path(f"{saved}.part").rename(saved)


if __name__ == "__main__":
    main()
