"""Do the audit's tests keep their false-positive rate, and do they see what they should?

Run ``python benchmarks/audit_calibration.py`` for both tables (minutes), or with ``null`` or
``power`` for one. ``--repeats`` sets how often each cell of the null table is drawn.

Null table: both samples come from one distribution, and every alarm is false. A cell is marked
``HIGH`` where the alarms exceed what alpha = 0.05 allows (99.9 % binomial bound), and ``low`` where
they fall short of it (a test of coarse statistics must: its p-values are few).

Power table: the shifts of S. Rabanser, S. Guennemann and Z. Lipton, "Failing loudly" (NeurIPS
2019) on scikit-learn's digits, or with ``--npz FILE`` on the images of a MedMNIST file (all splits
pooled, 7 x 7 block means), each applied to a share of the target images, beside a column without
shift, which the study leaves out. A cell is the share of draws in which the corrected test
rejects; scipy's ``ks_2samp`` with Bonferroni stands beside, and frouros where it is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.stats import binom, ks_2samp
from sklearn.datasets import load_digits

from transferkit._text import table
from transferkit.audit.categorical import category_test
from transferkit.audit.domain_classifier import domain_classifier_test
from transferkit.audit.energy import energy_test
from transferkit.audit.mmd import mmd_test
from transferkit.audit.univariate import ks_tests

ALPHA = 0.05
WIDTH = 8
Array = NDArray[np.float64]
Groups = tuple[NDArray[np.int64], NDArray[np.int64]] | None
Sampler = Callable[[np.random.Generator, int], Array]
Test = Callable[[Array, Array, Groups, int], float]


def gaussian(rng: np.random.Generator, n: int) -> Array:
    return rng.normal(size=(n, WIDTH))


def relu(rng: np.random.Generator, n: int) -> Array:
    return np.maximum(rng.normal(size=(n, WIDTH)) - 0.5, 0)


def discrete(rng: np.random.Generator, n: int) -> Array:
    return rng.poisson(2.0, size=(n, WIDTH)).astype(float)


def tied(rng: np.random.Generator, n: int) -> Array:
    return (rng.random((n, WIDTH)) < 0.1) * rng.integers(1, 4, size=(n, WIDTH)).astype(float)


def heavy_tailed(rng: np.random.Generator, n: int) -> Array:
    return rng.standard_cauchy(size=(n, WIDTH))


def grouped(rng: np.random.Generator, n: int, first: int) -> tuple[Array, NDArray[np.int64]]:
    """Rows in groups of 1 to 9 that share most of their variance."""
    sizes = rng.integers(1, 10, size=n)
    code = np.repeat(np.arange(n), sizes)[:n]
    rows = rng.normal(size=(n, WIDTH))[code] + 0.5 * rng.normal(size=(n, WIDTH))
    return np.maximum(rows, 0), code + first


def codes(rows: Array) -> NDArray[np.int64]:
    return np.digitize(rows[:, 0], [0.5, 1.5, 2.5]).astype(np.int64)


TESTS: dict[str, Test] = {
    "ks, 1 feature": lambda a, b, g, s: (
        ks_tests(a[:, :1], b[:, :1], groups=g, permutations=99, seed=s).summary().p_value
    ),
    "ks, 8 features": lambda a, b, g, s: (
        ks_tests(a, b, groups=g, permutations=99, seed=s).summary().p_value
    ),
    "mmd": lambda a, b, g, s: mmd_test(a, b, groups=g, permutations=99, seed=s).p_value,
    "mmd, fourier": lambda a, b, g, s: (
        mmd_test(a, b, groups=g, permutations=99, method="fourier", seed=s).p_value
    ),
    "energy": lambda a, b, g, s: energy_test(a, b, groups=g, permutations=99, seed=s).p_value,
    "classifier, linear": lambda a, b, g, s: (
        domain_classifier_test(a, b, form="linear", groups=g, permutations=99, seed=s).test.p_value
    ),
    "classifier, fourier": lambda a, b, g, s: (
        domain_classifier_test(
            a, b, form="fourier", groups=g, permutations=99, repeats=1, seed=s
        ).test.p_value
    ),
    "chi-square": lambda a, b, g, s: (
        category_test(codes(a), codes(b), groups=g, permutations=199, seed=s).p_value
    ),
    "G": lambda a, b, g, s: (
        category_test(codes(a), codes(b), statistic="g", groups=g, permutations=199, seed=s).p_value
    ),
}
SAMPLERS: dict[str, Sampler | None] = {
    "gaussian": gaussian,
    "relu": relu,
    "discrete": discrete,
    "tied": tied,
    "heavy-tailed": heavy_tailed,
    "grouped": None,
}
SIZES = ((20, 20), (20, 60), (100, 100), (300, 100))
LARGE = ((3000, 3000), (20000, 5000), (100000, 100000))
FAST = ("ks, 1 feature", "ks, 8 features", "chi-square", "G")


def draw(kind: str, rng: np.random.Generator, n: int, m: int) -> tuple[Array, Array, Groups]:
    sampler = SAMPLERS[kind]
    if sampler is not None:
        return sampler(rng, n), sampler(rng, m), None
    a, first = grouped(rng, n, 0)
    b, second = grouped(rng, m, n)
    return a, b, (first, second)


def alarms(name: str, kind: str, n: int, m: int, *, repeats: int, seed: int = 0) -> int:
    """Count the false alarms of a test in ``repeats`` null draws."""
    rng = np.random.default_rng([seed, n, m])
    found = 0
    for i in range(repeats):
        a, b, groups = draw(kind, rng, n, m)
        found += TESTS[name](a, b, groups, i) <= ALPHA
    return found


def bounds(repeats: int) -> tuple[int, int]:
    """Alarms that alpha allows: the central 99.9 % of the binomial distribution."""
    low, high = binom.ppf([0.0005, 0.9995], repeats, ALPHA)
    return int(low), int(high)


def null_table(repeats: int) -> str:
    low, high = bounds(repeats)
    rows = []
    plan = [(name, SIZES) for name in TESTS] + [(name, LARGE) for name in FAST]
    for name, sizes in plan:
        for n, m in sizes:
            some = repeats if n + m < 50_000 else max(50, repeats // 10)
            kinds = [kind for kind in SAMPLERS if n < 1000 or kind != "grouped"]
            counts = [alarms(name, kind, n, m, repeats=some) for kind in kinds]
            low, high = bounds(some)
            cells = [
                f"{c / some:.3f}{' HIGH' if c > high else ' low' if c < low else ''}"
                for c in counts
            ]
            rows.append([name, f"{n} / {m}", *cells, *[""] * (len(SAMPLERS) - len(cells))])
            print("  ".join(rows[-1]), flush=True)
    return table(("test", "rows", *SAMPLERS), rows, left=2)


def noise(scale: float) -> Callable[[Array, np.random.Generator], Array]:
    return lambda images, rng: np.clip(images + scale * rng.normal(size=images.shape), 0, 1)


def turned(
    degrees: float, shear: float, zoom: float, *, flips: bool = False
) -> Callable[[Array, np.random.Generator], Array]:
    """Rotate, shear and zoom every image at random, up to the given sizes."""

    def edit(images: Array, rng: np.random.Generator) -> Array:
        return np.stack([_affine(image, rng, degrees, shear, zoom, flips) for image in images])

    return edit


def _affine(
    image: Array, rng: np.random.Generator, degrees: float, shear: float, zoom: float, flips: bool
) -> Array:
    angle, skew = np.deg2rad(rng.uniform(-degrees, degrees)), rng.uniform(-shear, shear)
    scale = 1 + rng.uniform(-zoom, zoom)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = matrix @ np.array([[1, skew], [0, 1]]) / scale
    centre = (np.array(image.shape) - 1) / 2
    moved = ndimage.affine_transform(image, matrix, centre - matrix @ centre, order=1)
    return moved[:, ::-1] if flips and rng.random() < 0.5 else moved


SHIFTS: dict[str, Callable[[Array, np.random.Generator], Array] | float] = {
    "none": lambda images, rng: images,
    "noise 1/255": noise(1 / 255),
    "noise 10/255": noise(10 / 255),
    "noise 100/255": noise(100 / 255),
    "image small": turned(10, 0.1, 0.1),
    "image medium": turned(40, 0.2, 0.2, flips=True),
    "image large": turned(90, 0.3, 0.4, flips=True),
    "knock-out 10 %": 0.1,
    "knock-out 50 %": 0.5,
    "knock-out 100 %": 1.0,
}
DETECTORS: dict[str, Callable[[Array, Array, int], float]] = {
    "ks": lambda a, b, s: ks_tests(a, b).summary().p_value,
    "mmd": lambda a, b, s: mmd_test(a, b, permutations=99, seed=s).p_value,
    "energy": lambda a, b, s: energy_test(a, b, permutations=99, seed=s).p_value,
    "classifier": lambda a, b, s: (
        domain_classifier_test(a, b, permutations=99, seed=s).test.p_value
    ),
    "scipy ks": lambda a, b, s: scipy_ks(a, b),
}


def scipy_ks(a: Array, b: Array) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where its exact form gives up
        return min(
            1.0, a.shape[1] * min(ks_2samp(x, y).pvalue for x, y in zip(a.T, b.T, strict=True))
        )


def frouros_mmd(a: Array, b: Array, seed: int) -> float:
    from frouros.callbacks import PermutationTestDistanceBased
    from frouros.detectors.data_drift import MMD

    callback = PermutationTestDistanceBased(
        num_permutations=99, random_state=seed, num_jobs=1, method="exact", name="test"
    )
    detector = MMD(callbacks=[callback])
    detector.fit(X=a)
    return float(detector.compare(X=b)[1]["test"]["p_value"])


if importlib.util.find_spec("frouros"):
    DETECTORS["frouros mmd"] = frouros_mmd


def pictures(npz: str | None) -> tuple[Array, NDArray[np.int64]]:
    """Return the pool of images ``(N, H, W)`` in [0, 1] and their labels."""
    if npz is None:
        images, labels = load_digits(return_X_y=True)
        return images.reshape(-1, 8, 8) / 16, labels
    with np.load(npz) as data:
        parts = [(data[f"{s}_images"], data[f"{s}_labels"]) for s in ("train", "val", "test")]
    images = np.concatenate([part[0] for part in parts]) / 255
    return images, np.concatenate([part[1] for part in parts]).ravel()


def flattened(images: Array) -> Array:
    """Return images as rows, 28-pixel ones as 7 x 7 block means."""
    if images.shape[1] > 8:
        side = images.shape[1] // 7
        images = images.reshape(-1, 7, side, 7, side).mean(axis=(2, 4))
    return images.reshape(len(images), -1)


def shifted(
    pool_of: tuple[Array, NDArray[np.int64]],
    name: str,
    share: float,
    n: int,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Draw n source and n target images, flattened, and shift a share of the target."""
    images, labels = pool_of
    order = rng.permutation(len(images))
    source, pool = order[:n], order[n:]
    how = SHIFTS[name]
    if isinstance(how, float):
        pool = pool[(labels[pool] != 0) | (rng.random(len(pool)) >= how)]
        target = images[pool[:n]]
    else:
        target = images[pool[:n]].copy()
        changed = rng.random(len(target)) < share
        if changed.any():
            target[changed] = how(target[changed], rng)
    return flattened(images[source]), flattened(target)


def power(
    detector: str, name: str, share: float, n: int, *, draws: int, npz: str | None = None
) -> float:
    """Share of draws in which the detector rejects."""
    found, pool_of = 0, pictures(npz)
    for i in range(draws):
        a, b = shifted(pool_of, name, share, n, np.random.default_rng([i, n]))
        found += DETECTORS[detector](a, b, i) <= ALPHA
    return found / draws


def power_table(draws: int, npz: str | None, sizes: Iterable[int]) -> str:
    rows = []
    for name in SHIFTS:
        known = isinstance(SHIFTS[name], float) or name == "none"
        for share in (1.0,) if known else (0.1, 0.5, 1.0):
            for n in sizes:
                cells = [f"{power(d, name, share, n, draws=draws, npz=npz):.2f}" for d in DETECTORS]
                rows.append([name, f"{share:.0%}", str(n), *cells])
                print("  ".join(rows[-1]), flush=True)
    return table(("shift", "of images", "n", *DETECTORS), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("part", nargs="?", choices=("all", "null", "power"), default="all")
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--npz", help="a MedMNIST file in place of scikit-learn's digits")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 50, 200, 800])
    options = parser.parse_args()
    start = time.perf_counter()
    if options.part in ("all", "null"):
        print(null_table(options.repeats), end="\n\n")
    if options.part in ("all", "power"):
        print(power_table(options.draws, options.npz, options.sizes), end="\n\n")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
