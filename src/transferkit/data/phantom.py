"""The embedded dataset: drawn chest radiographs with known differences between splits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from transferkit._typing import BoolArray, Int64Array, UInt8Array
from transferkit._validation import check_number, check_whole
from transferkit.data.image_data import ImageData, trusted_images
from transferkit.data.phantom_imaging import (
    ANATOMY,
    AWAY,
    HOME,
    POSE,
    Maps,
    PhantomSite,
    attenuation,
    column,
    draw,
    draw_lesions,
    expose,
)
from transferkit.data.splits import Splits
from transferkit.errors import ConfigError

CLASSES = ("normal", "pneumonia")
PIXELS_AT_ONCE = 1 << 19

SiteChoice: TypeAlias = PhantomSite | Mapping[str, PhantomSite]
Share: TypeAlias = float | Mapping[str, float]


@dataclass(slots=True, eq=False)
class SplitPlan:
    """The patient and class of each of the n pictures of one split; arrays of shape (n,)."""

    name: str
    labels: Int64Array
    owner: NDArray[np.str_]  # the split that the patient was drawn for
    patient: Int64Array  # the patient's number in that split
    copied: Int64Array  # the row of the owner's picture that this one repeats, or -1


def phantom_splits(
    *,
    sizes: Sequence[int] | Mapping[str, int] = (1600, 400, 400),
    image_size: int = 64,
    positive_share: Share = 0.5,
    shift: float = 1.0,
    sites: Mapping[str, SiteChoice] | None = None,
    opacity: float = 1.0,
    opacity_size: float = 1.0,
    images_per_patient: int = 1,
    shared_patients: Mapping[tuple[str, str], int] | None = None,
    duplicates: Mapping[tuple[str, str], int] | None = None,
    label_noise: Share = 0.0,
    seed: int = 0,
) -> Splits:
    """Draw chest radiographs (one channel) of two classes, ``normal`` and ``pneumonia``.

    Patients differ in build, heart, ribs and more; pneumonia adds opacities inside the lungs.
    Train and val come from one site. Test comes from another as far as ``shift`` says: brighter,
    flatter, grainier, blurred, patient smaller, more corner markers. A classifier trained on train
    then scores visibly lower on test than on val. Every planted difference is known, so that what
    looks for differences can be checked.

    A split depends on the seed and its own options, not on the sizes of the others (unless it
    shares patients or pictures with them).

    Args:
        sizes: Pictures of train, val and test, or of splits of any names.
        image_size: Height and width in pixels, 16 or more.
        positive_share: Share of pneumonia, for all splits or by split (others 0.5).
        shift: 0 takes test at the same site as train, 1 at the other; between and beyond work.
        sites: Site of a split, or of each class of a split, in place of what ``shift`` gives:
            ``{"test": {"normal": PhantomSite(exposure=0.2)}}``; a class not named stays at home.
        opacity: Factor on how strong opacities are.
        opacity_size: Factor on how large they are.
        images_per_patient: Pictures of each patient, who is a group.
        shared_patients: ``{("train", "test"): 30}`` gives 30 pictures of test a patient of train
            (same build and class, another picture).
        duplicates: ``{("train", "test"): 8}`` makes 8 pictures of test exact copies of pictures of
            train, each of another one.
        label_noise: Share of labels that are wrong, for all splits or by split (others 0).
        seed: Any whole number from 0.

    Raises:
        ConfigError: An option is out of range or names a split or class that is not there.

    Example:
        >>> import transferkit as tk
        >>> splits = tk.phantom_splits(sizes=(40, 20, 20), image_size=32, seed=0)
        >>> print(splits)
        split  images     size  normal  pneumonia
        -----  ------  -------  ------  ---------
        train      40  32x32x1      20         20
        val        20  32x32x1      10         10
        test       20  32x32x1      10         10
    """
    counts = named_sizes(sizes)
    for name, count in counts.items():
        check_whole(f"size of {name}", count, least=1)
    check_whole("image_size", image_size, least=16)
    check_whole("images_per_patient", images_per_patient, least=1)
    check_whole("seed", seed)
    check_number("opacity", opacity, least=0)
    check_number("opacity_size", opacity_size, above=0)
    check_number("shift", shift)
    chosen = choose_sites(counts, shift, sites or {})
    shares = per_split("positive_share", positive_share, counts, 0.5)
    wrong = per_split("label_noise", label_noise, counts, 0.0)
    plans = {
        name: plan_split(name, count, shares[name], images_per_patient, seed)
        for name, count in counts.items()
    }
    plant(plans, shared_patients or {}, seed, copy=False)
    plant(plans, duplicates or {}, seed, copy=True)
    strength = (opacity, opacity_size)
    drawn = {n: render(plan, chosen[n], image_size, strength, seed) for n, plan in plans.items()}
    for name, plan in plans.items():
        for row in np.flatnonzero(plan.copied >= 0):
            drawn[name][row] = drawn[plan.owner[row]][plan.copied[row]]
    return Splits({n: collect(plan, drawn[n], wrong[n], seed) for n, plan in plans.items()})


def generator(seed: int, split: str, purpose: str) -> np.random.Generator:
    """Return the stream of numbers of one purpose in one split."""
    return np.random.default_rng([seed, crc32(f"{split}/{purpose}".encode())])


def named_sizes(sizes: object) -> dict[str, int]:
    """Return the size of each split; three sizes without names are train, val and test."""
    if isinstance(sizes, Mapping) and sizes:
        return dict(sizes)
    if not isinstance(sizes, Sequence) or len(sizes) != 3:
        raise ConfigError(
            f"sizes must be three numbers (train, val, test) or a mapping, got {sizes!r}."
        )
    return dict(zip(("train", "val", "test"), sizes, strict=True))


def per_split(
    option: str, value: Share, counts: Mapping[str, int], default: float
) -> dict[str, float]:
    """Return the share of every split."""
    if isinstance(value, Mapping):
        check_keys(option, "split", value, counts)
        shares = {name: value.get(name, default) for name in counts}
    else:
        shares = dict.fromkeys(counts, value)
    for name, share in shares.items():
        check_number(f"{option} of {name}", share, least=0, most=1)
    return shares


def check_keys(option: str, kind: str, value: object, known: Collection[str]) -> None:
    """Raise ConfigError unless an option maps known names to something."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{option} must map each {kind} to a value, got {value!r}.")
    for name in value:
        if name not in known:
            raise ConfigError(f"{option} names the {kind} {name!r}; there are: {', '.join(known)}.")


def choose_sites(
    counts: Mapping[str, int], shift: float, sites: Mapping[str, SiteChoice]
) -> dict[str, tuple[PhantomSite, ...]]:
    """Return the site of each class of each split."""
    check_keys("sites", "split", sites, counts)
    chosen = {}
    for name in counts:
        site = sites.get(name, HOME.toward(AWAY, shift) if name == "test" else HOME)
        if isinstance(site, PhantomSite):
            site = dict.fromkeys(CLASSES, site)
        check_keys(f"sites[{name!r}]", "class", site, CLASSES)
        chosen[name] = tuple(site.get(title, HOME) for title in CLASSES)
    return chosen


def plan_split(name: str, count: int, share: float, per_patient: int, seed: int) -> SplitPlan:
    """Give each picture a patient and each patient a class."""
    patients = -(-count // per_patient)
    sick = np.arange(patients) < round(share * patients)
    labels = generator(seed, name, "labels").permutation(sick).astype(np.int64)
    patient = np.arange(count, dtype=np.int64) // per_patient
    nothing = np.full(count, -1, np.int64)
    return SplitPlan(name, labels[patient], np.full(count, name, dtype=object), patient, nothing)


def plant(
    plans: Mapping[str, SplitPlan],
    wanted: Mapping[tuple[str, str], int],
    seed: int,
    *,
    copy: bool,
) -> None:
    """Give pictures of one split the patients, or the very pixels, of the same class of another."""
    option = "duplicates" if copy else "shared_patients"
    for pair, count in check_pairs(option, wanted, plans).items():
        source, target = pair
        a, b = plans[source], plans[target]
        rng = generator(seed, f"{source}/{target}", option)
        rows, origins = match_rows(a, b, count, rng, option)
        b.owner[rows], b.patient[rows] = a.owner[origins], a.patient[origins]
        if copy:
            b.copied[rows] = origins


def check_pairs(option: str, wanted: object, known: Collection[str]) -> dict[tuple[str, str], int]:
    """Return an option that maps pairs of splits to counts; ConfigError if it does not."""
    found = dict(wanted) if isinstance(wanted, Mapping) else None
    if found is None or not all(isinstance(key, tuple) and len(key) == 2 for key in found):
        raise ConfigError(
            f'{option} must map two splits to a count, such as {{("train", "test"): 3}}, got '
            f"{wanted!r}."
        )
    for (source, target), count in found.items():
        if source not in known or target not in known or source == target:
            raise ConfigError(
                f"{option} must name two of the splits {list(known)}, got {source}, {target}."
            )
        check_whole(f"{option} of {source}, {target}", count)
    return found


def match_rows(
    a: SplitPlan, b: SplitPlan, count: int, rng: np.random.Generator, option: str
) -> tuple[Int64Array, Int64Array]:
    """Pick ``count`` untouched rows of b, and for each another untouched row of a of its class."""
    free = rng.permutation(np.flatnonzero((b.owner == b.name) & (b.copied < 0)))
    rows, origins = free[:count], np.full(min(count, len(free)), -1, np.int64)
    for label in range(len(CLASSES)):
        here = np.flatnonzero(b.labels[rows] == label)
        own = (a.owner == a.name) & (a.copied < 0) & (a.labels == label)
        pool = rng.permutation(np.flatnonzero(own))[: len(here)]
        origins[here[: len(pool)]] = pool
    if len(rows) < count or np.any(origins < 0):
        raise ConfigError(
            f"{option} wants {count} pictures of {b.name!r} taken from {a.name!r}, "
            f"but the splits have only {len(b.labels)} and {len(a.labels)} (by class)."
        )
    return rows, origins


def render(
    plan: SplitPlan,
    sites: tuple[PhantomSite, ...],
    image_size: int,
    strength: tuple[float, float],
    seed: int,
) -> UInt8Array:
    """Draw all pictures of one split, some at a time."""
    count = len(plan.labels)
    patient = patients_of(plan, seed)
    pose = draw(POSE, count, generator(seed, plan.name, "pose"))
    lesion_rng = generator(seed, plan.name, "lesions")
    texture_rng = generator(seed, plan.name, "texture")
    film_rng = generator(seed, plan.name, "film")
    images = np.empty((count, image_size, image_size, 1), np.uint8)
    step = max(1, PIXELS_AT_ONCE // image_size**2)
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        labels = plan.labels[rows]
        where = [sites[label] for label in labels]
        lesions = draw_lesions(labels == 1, lesion_rng, *strength)
        texture = texture_rng.standard_normal(images[rows].shape[:3], dtype=np.float32)
        chest = attenuation(
            {key: value[rows] for key, value in patient.items()},
            {key: value[rows] for key, value in pose.items()},
            lesions,
            texture,
            field_of_view=column(where, "field_of_view"),
        )
        images[rows] = expose(chest, where, film_rng)
    return images


def patients_of(plan: SplitPlan, seed: int) -> dict[str, Maps]:
    """Return the build of the patient on each picture, wherever the patient comes from."""
    build = {name: np.empty((len(plan.patient), 1, 1), np.float32) for name in ANATOMY}
    for owner in sorted(set(plan.owner)):
        here: BoolArray = plan.owner == owner
        numbers = plan.patient[here]
        known = draw(ANATOMY, int(numbers.max()) + 1, generator(seed, owner, "patients"))
        for name, values in known.items():
            build[name][here] = values[numbers]
    return build


def collect(plan: SplitPlan, images: UInt8Array, wrong: float, seed: int) -> ImageData:
    """Give a share of the pictures the wrong label, and name all as a folder of files would."""
    count, labels = len(images), plan.labels.copy()
    rows = generator(seed, plan.name, "mislabel").permutation(count)[: round(wrong * count)]
    labels[rows] = 1 - labels[rows]
    groups = [f"{o}-{p:05d}" for o, p in zip(plan.owner, plan.patient, strict=True)]
    names = [
        f"{plan.name}/{CLASSES[label]}/{group}_{row:05d}.png"
        for row, (label, group) in enumerate(zip(labels, groups, strict=True))
    ]
    sizes = np.tile(np.array(images.shape[1:3], np.int64), (count, 1))
    return trusted_images(images, labels, CLASSES, names, sizes, groups)
