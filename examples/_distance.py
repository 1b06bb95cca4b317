"""How far images of digits are from MNIST's: the Fréchet distance between features of a small classifier.

The Fréchet inception distance (Heusel et al. 2017, arXiv:1706.08500), with a network that knows digits in the place of
Inception: the distance between two normal distributions fitted to its 64 features. The unit is this classifier's own,
so a value means something beside two others: that of held-out real images, the floor, and that of noise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

import fnet
import fnet.functional as F
from fnet import data, metrics, nn, optim, train


class Distance:
    """Distances to MNIST's training images; the classifier is trained at the first use and kept in a file in a folder.

    ``distance(images)`` takes numbers from 0 to 255 of shape (n, 28, 28, 1); ``distance.floor(n)`` is that of n test
    images from all over the test set, whose first half is of tidier hands than the training images;
    ``distance.ceiling(n)`` is that of n images of uniform noise. ``distance.right(images, digits)`` is the share of
    images that the classifier takes for the digits they should be, ``distance.accuracy`` that of all test images.
    """

    def __init__(self, folder: Path, epochs: int = 2, reference: int = 10000) -> None:
        (images, labels), self.test_set = data.mnist()[0].arrays, data.mnist()[1]
        body = nn.Sequential(
            data.transforms.ToFloat(), nn.Conv(16, 3, stride=2, padding=1), F.relu,
            nn.Conv(32, 3, stride=2, padding=1), F.relu, nn.Flatten(), nn.Linear(64), F.relu,
        )  # fmt: skip
        model = nn.Sequential(body=body, head=nn.Linear(10))
        opt = optim.adamw(1e-3)
        loss = train.supervised(model, F.cross_entropy, metrics={"accuracy": metrics.accuracy})
        self._run = train.start(model, opt, jax.random.key(0), images[:1])
        path = folder / f"digit_features-{epochs}-epochs.safetensors"  # a try with less training is no measure
        if path.is_file():
            self._run = fnet.load(path, like=self._run)
        else:
            print("a classifier, whose features will be compared:", flush=True)
            loader = data.DataLoader(data.ArrayDataset(images, labels), 128, shuffle=True, last="drop")
            steps = epochs * len(loader) if epochs else 20
            self._run, _ = train.fit(train.make_step(loss, opt), self._run, loader, steps=steps)
            folder.mkdir(parents=True, exist_ok=True)
            fnet.save(path, self._run)
        test = data.DataLoader(self.test_set if epochs else data.Subset(self.test_set, range(512)), batch_size=512)
        self.accuracy = train.evaluate(loss, self._run, test)["accuracy"]
        self._model = model
        self._real = self._moments(images[:reference])

    def __call__(self, images: Any) -> float:
        (mean, covariance), (real_mean, real_covariance) = self._moments(images), self._real
        # The trace of the root of a product of two covariances is the sum of the roots of its eigenvalues.
        roots = np.sqrt(np.linalg.eigvals(covariance @ real_covariance).real.clip(0)).sum()
        return float(((mean - real_mean) ** 2).sum() + np.trace(covariance + real_covariance) - 2 * roots)

    def floor(self, count: int) -> float:
        images = self.test_set.arrays[0]
        return self(images[np.linspace(0, len(images) - 1, count).astype(int)])

    def ceiling(self, count: int) -> float:
        return self(np.random.default_rng(0).integers(256, size=(count, 28, 28, 1), dtype=np.uint8))

    def right(self, images: Any, digits: Any) -> float:
        scores = train.predict(self._model, self._run, _pixels(images))
        return float((np.asarray(scores).argmax(-1) == np.asarray(digits)).mean())

    def report(self, images: Any, digits: Any) -> str:
        """All of these numbers in words, for images of the digits asked for."""
        right, floor, ceiling = self.right(images, digits), self.floor(len(images)), self.ceiling(len(images))
        return (
            f"the classifier sees the digit asked for in {right:.1%}, in {self.accuracy:.1%} of real ones\n"
            f"distance {self(images):.2f}; held-out digits {floor:.2f}, noise {ceiling:.1f}"
        )

    def _moments(self, images: Any) -> tuple[np.ndarray, np.ndarray]:
        body = self._run._replace(params=self._run.params["body"], state={})
        features = np.asarray(train.predict(self._model["body"], body, _pixels(images)), np.float64)
        return features.mean(0), np.cov(features, rowvar=False)


def _pixels(images: Any) -> np.ndarray:
    return np.asarray(images).round().astype(np.uint8)
