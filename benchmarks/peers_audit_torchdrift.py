"""The power table's draws, judged by TorchDrift with its default settings.

    python -m venv drift && drift/bin/pip install torchdrift==0.1.0.post1 torch numpy
    drift/bin/python benchmarks/peers_audit_torchdrift.py --beside digits.npz pneumonia.npz

Kernel MMD (1000 permutations, one Gaussian kernel, median bandwidth) and Kolmogorov-Smirnov by
feature with Bonferroni.
"""

from __future__ import annotations

from importlib.metadata import version

import torch
from torchdrift.detectors import KernelMMDDriftDetector, KSDriftDetector
from torchdrift.detectors.detector import Detector

import audit_draws
from audit_draws import Array, Suite


def p_value(detector: Detector, source: Array, target: Array, seed: int) -> float:
    torch.manual_seed(seed)
    detector.fit(torch.from_numpy(source))
    return float(detector.compute_p_value(torch.from_numpy(target)))


SUITE = Suite(
    "TorchDrift",
    version("torchdrift"),
    {
        "mmd": lambda a, b, s: p_value(KernelMMDDriftDetector(), a, b, s),
        "ks": lambda a, b, s: p_value(KSDriftDetector(), a, b, s),
    },
)

if __name__ == "__main__":
    torch.set_num_threads(1)
    audit_draws.run(SUITE, audit_draws.parse(__doc__))
