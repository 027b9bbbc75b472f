"""The best that moved decision thresholds can do on scores whose labels are known: an oracle."""

from __future__ import annotations

import numpy as np

from transferkit._typing import BoolArray, Float64Array, Int64Array

_ROUNDS = 20


def best_offsets(scores: Float64Array, labels: Int64Array) -> Float64Array:
    """Find what to add to each class's score so that the most images come out right.

    With two classes this is the exact best threshold; with more, one class is moved at a time,
    exactly, until nothing improves.

    Args:
        scores: Logits or log-probabilities (N, K).
        labels: True classes (N,).

    Returns:
        Offsets (K,); all zero where no threshold beats the plain one.
    """
    offsets = np.zeros(scores.shape[1])
    best = _right(scores, labels).sum()
    for _ in range(_ROUNDS):
        before = best
        for label in range(scores.shape[1]):
            trial = offsets.copy()
            trial[label] += _best_move(scores + offsets, labels, label)
            count = _right(scores + trial, labels).sum()
            if count > best:
                best, offsets = count, trial
        if best == before:
            break
    return offsets


def _right(scores: Float64Array, labels: Int64Array) -> BoolArray:
    right: BoolArray = scores.argmax(axis=1) == labels
    return right


def _best_move(scores: Float64Array, labels: Int64Array, label: int) -> float:
    """Return the best shift of one class's scores.

    An image goes to ``label`` once the shift passes its lead: there it is won if it is of that
    class, and lost if it was right before.
    """
    others = np.delete(scores, label, axis=1)
    rival = others.argmax(axis=1)
    rival += rival >= label
    lead = others.max(axis=1) - scores[:, label]
    gain = np.where(labels == label, 1, np.where(rival == labels, -1, 0))
    use = np.isfinite(lead)
    order = np.argsort(lead[use], kind="stable")
    leads, gains = lead[use][order], np.cumsum(gain[use][order])
    if not len(leads):
        return 0.0
    last = np.append(leads[1:] > leads[:-1], True)  # between equal leads no threshold fits
    gains = np.where(last, gains, -len(labels) - 1)
    place = int(gains.argmax())
    if gains[place] <= 0:
        return float(leads[0]) - 1.0
    upper = leads[place + 1] if place + 1 < len(leads) else leads[place] + 2.0
    return float((leads[place] + upper) / 2)
