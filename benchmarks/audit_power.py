"""Which shifts do the audit's tests see, and how often do they see one where there is none?

    python benchmarks/audit_calibration.py images digits digits.npz   # once per set of images
    python benchmarks/audit_calibration.py power digits.npz           # adds what is missing
    python benchmarks/audit_calibration.py power --beside digits.npz  # on the peers' draws only
    python benchmarks/audit_calibration.py power scipy --beside digits.npz

Each cell of the table draws a source and a target without a common image, shifts a share of the
target (Rabanser et al. 2019) and counts how often a test rejects at alpha = 0.05. The rows of
shift ``none`` are the false alarms, which the study leaves out. ``together`` are the three tests of
an audit, corrected for being three. The peers stand in ``peers_audit_*.py``, on the same draws.
"""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import version

from scipy.stats import ks_2samp

import audit_draws
from audit_draws import Array, Suite
from transferkit.audit.domain_classifier import domain_classifier_test
from transferkit.audit.kolmogorov_smirnov import ks_test
from transferkit.audit.mmd import mmd_test
from transferkit.audit.two_sample import SplitPair

OURS = Suite(
    "transferkit",
    version("transferkit"),
    {
        "ks": lambda a, b, s: ks_test(SplitPair.of(a, b)).p_value,
        "mmd": lambda a, b, s: mmd_test(SplitPair.of(a, b), seed=s).p_value,
        "classifier": lambda a, b, s: domain_classifier_test(SplitPair.of(a, b), seed=s).p_value,
    },
    joint=("ks", "mmd", "classifier"),
)


def bonferroni_ks(a: Array, b: Array, seed: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where its exact form gives up
        return a.shape[1] * min(ks_2samp(x, y).pvalue for x, y in zip(a.T, b.T, strict=True))


SCIPY = Suite("scipy", version("scipy"), {"ks_2samp, Bonferroni": bonferroni_ks})


def main() -> None:
    suite = SCIPY if sys.argv[1:2] == ["scipy"] else OURS
    if suite is SCIPY:
        del sys.argv[1]
    audit_draws.run(suite, audit_draws.parse(__doc__))


if __name__ == "__main__":
    main()
