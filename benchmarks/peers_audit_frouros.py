"""The power table's draws, judged by frouros with its default settings.

    python -m venv frouros && frouros/bin/pip install frouros==0.9.0
    frouros/bin/python benchmarks/peers_audit_frouros.py --beside digits.npz pneumonia.npz

MMD with its default kernel (Gaussian, of deviation 1 whatever the data) and its permutation test,
whose number of permutations has no default: 100 here; and its Kolmogorov-Smirnov test, which knows
one feature at a time, with Bonferroni.
"""

from __future__ import annotations

import warnings
from importlib.metadata import version

from frouros.callbacks import PermutationTestDistanceBased
from frouros.detectors.data_drift import MMD, KSTest

import audit_draws
from audit_draws import Array, Suite


def mmd(source: Array, target: Array, seed: int) -> float:
    test = PermutationTestDistanceBased(
        num_permutations=100, random_state=seed, num_jobs=1, name="test"
    )
    detector = MMD(callbacks=[test])
    detector.fit(X=source)
    return float(detector.compare(X=target)[1]["test"]["p_value"])


def ks(source: Array, target: Array, seed: int) -> float:
    smallest = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where scipy's exact form gives up
        for x, y in zip(source.T, target.T, strict=True):
            detector = KSTest()
            detector.fit(X=x)
            smallest = min(smallest, float(detector.compare(X=y)[0].p_value))
    return source.shape[1] * smallest


SUITE = Suite("frouros", version("frouros"), {"mmd": mmd, "ks": ks})

if __name__ == "__main__":
    audit_draws.run(SUITE, audit_draws.parse(__doc__))
