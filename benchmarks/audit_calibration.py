"""Do the audit's tests keep their false-positive rate, and do they see what they should?

    python benchmarks/audit_calibration.py null               # false alarms, n from 20 to 10^5
    python benchmarks/audit_calibration.py images DATASET OUT.npz [--medmnist FILE]
    python benchmarks/audit_calibration.py power OUT.npz      # detections of known shifts
    python benchmarks/audit_calibration.py power scipy OUT.npz
    python benchmarks/audit_calibration.py planted            # gaps of known size
    python benchmarks/audit_calibration.py tables             # results as text, and docs/audit.md

Each part is a script of its own (``audit_null.py`` and so on; ``--help`` after the part shows its
options), adds what is missing to a CSV file in ``results/`` and can be stopped and run again. The
peers have scripts of their own, ``peers_audit_*.py``, that go on the same draws.
"""

from __future__ import annotations

import sys
from importlib import import_module

PARTS = ("null", "images", "power", "planted", "tables")


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in PARTS:
        sys.exit(f"{__doc__}\nThe first word must be one of {', '.join(PARTS)}.")
    import_module(f"audit_{sys.argv.pop(1)}").main()


if __name__ == "__main__":
    main()
