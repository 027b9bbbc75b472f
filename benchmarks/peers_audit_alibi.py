"""The power table's draws, judged by alibi-detect with its default settings.

    python -m venv alibi && alibi/bin/pip install alibi-detect==0.13.0 torch
    alibi/bin/python benchmarks/peers_audit_alibi.py --beside digits.npz pneumonia.npz

It needs NumPy below 2, hence an environment of its own. MMD (100 permutations, one Gaussian kernel,
median bandwidth) and Kolmogorov-Smirnov by feature with Bonferroni; its verdict at 0.05 counts. Its
classifier tests have no default classifier and are left out.
"""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
import torch
from alibi_detect.cd import KSDrift, MMDDrift

import audit_draws
from audit_draws import Array, Suite


def mmd(source: Array, target: Array, seed: int) -> float:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the library draws from it)
    drift = MMDDrift(source, backend="pytorch", device="cpu").predict(target)
    return 0.0 if drift["data"]["is_drift"] else 1.0


def ks(source: Array, target: Array, seed: int) -> float:
    return 0.0 if KSDrift(source).predict(target)["data"]["is_drift"] else 1.0


SUITE = Suite("alibi-detect", version("alibi-detect"), {"mmd": mmd, "ks": ks})

if __name__ == "__main__":
    torch.set_num_threads(1)
    audit_draws.run(SUITE, audit_draws.parse(__doc__))
