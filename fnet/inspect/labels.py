"""`mislabelled`: examples whose label is likely to be wrong."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Mislabelled(NamedTuple):
    """Likely errors, the likeliest first: numbers of examples, their labels, better ones, scores from -1 (worst)."""

    examples: np.ndarray
    given: np.ndarray
    suggested: np.ndarray
    scores: np.ndarray

    def __repr__(self) -> str:
        count = len(self.examples)
        lines = [f"{count} label{' is' if count == 1 else 's are'} likely to be wrong"]
        for row in list(zip(*self, strict=True))[:10]:
            lines.append("  example {}: {} is likelier {} (score {:.2f})".format(*row))
        return "\n".join(lines + (["  …"] if len(self.examples) > 10 else []))


def mislabelled(probabilities: Any, labels: Any) -> Mislabelled:
    """Examples whose label the model's probabilities contradict, by confident learning (Northcutt et al. 2021).

    ``probabilities`` (n, classes) must be of examples that the model was not trained on, so predict each fold of a
    cross-validation with the others' model: `F.softmax` of `train.predict`. An example counts as class j where its
    probability of j reaches the mean that the examples labelled j have of j (of several, the likeliest), and is listed
    where that is not its label (eq. 1-2 of arXiv:1911.00068, "off-diagonals of the confident joint"), in the order of
    the margin between its label's probability and the largest other. Integer ``labels`` (n,).

    >>> p = [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.95, 0.05]]
    >>> mislabelled(p, [0, 0, 1, 1, 1])
    1 label is likely to be wrong
      example 4: 1 is likelier 0 (score -0.90)
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(labels)
    if p.ndim != 2 or y.shape != p.shape[:1] or y.dtype.kind not in "iu":
        raise ValueError(
            "mislabelled takes probabilities (n, classes) and integer labels (n,), got "
            f"{p.shape} and {y.dtype}{y.shape}"
        )
    if y.size and not (0 <= y.min() and y.max() < p.shape[1]):
        raise ValueError(f"mislabelled: labels are from 0 to {p.shape[1] - 1}, got {y.min()} to {y.max()}")
    if p.size and (np.any(p < 0) or not np.allclose(p.sum(1), 1, atol=1e-2)):
        raise ValueError("mislabelled takes probabilities, whose rows sum to 1; of logits, take F.softmax first")
    own = p[np.arange(len(p)), y]
    thresholds = np.array([own[y == j].mean() if np.any(y == j) else np.inf for j in range(p.shape[1])])
    confident = np.where(p >= thresholds, p, -1.0)
    suggested = confident.argmax(1) if len(p) else y
    found = np.flatnonzero((confident.max(1, initial=-1.0) >= 0) & (suggested != y))
    others = p.copy()
    others[np.arange(len(p)), y] = -1.0
    margins = own - others.max(1, initial=-1.0)
    found = found[np.argsort(margins[found], kind="stable")]
    return Mislabelled(found, y[found], suggested[found], margins[found])
