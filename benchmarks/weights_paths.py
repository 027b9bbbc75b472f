"""Load every tag of torchvision and timm from a state dict in the library's layout.

    python benchmarks/weights_paths.py torchvision
    python benchmarks/weights_paths.py timm                 # resumes
    python benchmarks/weights_paths.py timm --part 1/2      # every other architecture, a second
                                                            # process doing 2/2
    python benchmarks/weights_paths.py summary              # sorts the tables; docs/coverage.md

No weights are downloaded: the library gives the layout of each published network, and
random numbers in that layout stand for the file that its address would give. The tag is then loaded
as a user loads it, and every tensor compared with the library's own; likewise for 1 and 4
channels, where the first layer must hold the sums and the scaled repetitions; and likewise from a
file on disk, once for each architecture.

Tags of one architecture whose metadata agrees in all that loading reads take the same path: the
first of them is run, and the rows of the others name it. With --shapes, networks that are too
large are loaded on the meta device: names and shapes are checked, and no numbers. All takes some
two hours on one core; half of that with TMPDIR=/dev/shm and with
MALLOC_MMAP_THRESHOLD_=17179869184 MALLOC_TRIM_THRESHOLD_=17179869184, which keep memory mapped.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path

from timm.models import PretrainedCfg, get_pretrained_cfg

from coverage_summary import markdown, put
from transferkit.backbones.catalog import list_backbones, resolve
from transferkit.backbones.spec import WeightsSpec, packaged_rows
from weights_check import check, check_file, published_state

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "coverage.md"
SOURCES = ("torchvision", "timm")
START = "<!-- made by benchmarks/weights_paths.py summary -->"
OUTCOMES = ("channels_3", "channels_1", "channels_4", "file")
FIELDS = ("name", "tag", "classes", "input_size", "published", "how", *OUTCOMES)
RUN, SHAPES, AS = "run", "shapes", "as "
OK, REFUSED = "ok", "ConfigError"
MANY = 11000  # classes: the smallest of the heads for ImageNet-12k and ImageNet-21k

Row = dict[str, str]


def architectures(source: str) -> list[str]:
    """The networks with weights, the smallest first."""
    measures = packaged_rows()
    names = list_backbones(source=source, pretrained=True)
    return sorted(names, key=lambda name: measures[name].num_params)


def tags(name: str) -> tuple[WeightsSpec, ...]:
    """The weights of a network, its default first."""
    return resolve(name).source.weights(name.partition("/")[2])


def path_of(name: str, spec: WeightsSpec) -> tuple[object, ...]:
    """All that the loading of a tag reads of its metadata."""
    if name.startswith("torchvision/"):
        return (spec.tag,)  # there are few: each is run
    facts = metadata(name, spec)
    return (
        *(facts.num_classes, str(facts.input_size), facts.fixed_input_size, str(facts.pool_size)),
        *(str(facts.first_conv), str(facts.classifier), facts.label_offset),
        *(facts.source, facts.hf_hub_filename, published(name, spec)),
    )


def published(name: str, spec: WeightsSpec) -> str:
    """Who keeps the published file, and so in whose layout it may be."""
    if name.startswith("torchvision/"):
        return "torchvision"
    hub = metadata(name, spec).hf_hub_id
    if not hub:
        return "address"
    return "timm" if hub.startswith("timm/") else "others"


def metadata(name: str, spec: WeightsSpec) -> PretrainedCfg:
    """What timm says of a tag."""
    bare = name.partition("/")[2]
    facts = get_pretrained_cfg(bare if spec.tag == "default" else f"{bare}.{spec.tag}", False)
    if facts is None:
        raise LookupError(f"timm says nothing of {name}.{spec.tag}")
    return facts


def rows(name: str, *, numbers: bool, done: set[tuple[str, str]]) -> Iterator[Row]:
    """The rows of one network that are not there yet."""
    first: dict[tuple[object, ...], str] = {}
    for spec in tags(name):
        same = first.setdefault(path_of(name, spec), spec.tag)
        if (name, spec.tag) in done:
            continue
        row = dict.fromkeys(FIELDS, "") | {"name": name, "tag": spec.tag}
        row["classes"] = str(spec.num_classes)
        row["input_size"] = "x".join(map(str, spec.input_size))
        row["published"] = published(name, spec)
        if same != spec.tag:
            yield row | {"how": AS + same}
            continue
        yield row | outcomes(name, spec, numbers=numbers, file=len(first) == 1)


def outcomes(name: str, spec: WeightsSpec, *, numbers: bool, file: bool) -> Row:
    """Load the weights in every way."""
    state = published_state(name, spec, numbers=numbers)
    row = {f"channels_{c}": check(name, spec, c, state) for c in (3, 1, 4)}
    if numbers and (file or name.startswith("torchvision/")):
        row["file"] = check_file(name, spec, state)
    return row | {"how": RUN if numbers else SHAPES}


def read(path: Path) -> list[Row]:
    """The rows of a table; none where it is not there."""
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def run(source: str, part: str, largest: float, *, shapes: bool) -> None:
    """Append the rows that are not there yet."""
    path = table(source)
    done = {(row["name"], row["tag"]) for row in read(path)}
    first, parts = map(int, part.split("/"))
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not path.stat().st_size:
            writer.writeheader()
        for name in architectures(source)[first - 1 :: parts]:
            numbers = packaged_rows()[name].num_params <= largest * 1e6
            if not numbers and not shapes:
                break
            for row in rows(name, numbers=numbers, done=done):
                writer.writerow(row)
                file.flush()


def table(source: str) -> Path:
    """Where the rows of a library are."""
    return RESULTS / f"weights_paths_{source}.csv"


def sort(source: str) -> None:
    """Put the rows of a library into the order of its networks and tags, one row each."""
    found = {(row["name"], row["tag"]): row for row in read(table(source))}
    order = [(name, spec.tag) for name in architectures(source) for spec in tags(name)]
    with table(source).open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found[key] for key in order if key in found)


def summary() -> list[str]:
    """What the page says of the tables."""
    kept = {source: read(table(source)) for source in SOURCES}
    columns = [figures(source, kept[source]) for source in SOURCES]
    lines = [list(line) for line in zip(KINDS, *columns, strict=True)]
    parts = [markdown(["", *SOURCES], lines), limits(kept["timm"])]
    failures = [row for source in SOURCES for row in kept[source] if wrong(row)]
    if failures:
        told = [[f"`{row['name']}.{row['tag']}`", wrong(row)] for row in failures]
        parts.append("What failed or was refused:\n\n" + markdown(["weights", "reason"], told))
    return parts


def limits(kept: list[Row]) -> str:
    """Where numbers end and shapes begin."""

    def params(how: str) -> list[float]:
        names = {row["name"] for row in kept if row["how"] == how}
        return [packaged_rows()[name].num_params / 1e6 for name in names]

    return (
        f"Of timm's networks, the largest loaded with numbers has {max(params(RUN)):.0f} million "
        f"parameters, and the smallest loaded by name and shape {min(params(SHAPES)):.0f} million."
    )


KINDS = (
    "tags",
    "loaded with numbers, every tensor compared",
    "loaded by name and shape (the largest networks)",
    "the same path as another tag of the network",
    "not loaded",
    "of those loaded: heads of 11 thousand classes or more",
    "of those loaded: images of other sides than 224",
    "first layer adapted to 1 channel, compared with the sum",
    "first layer adapted to 4 channels, compared with the repetition",
    "loaded from a file on disk too",
    "published by others than the library, perhaps in another layout",
)


def figures(source: str, kept: list[Row]) -> list[str]:
    """The column of one library, in the order of ``KINDS``."""
    count = sum(len(tags(name)) for name in architectures(source))
    ran = [row for row in kept if row["how"] == RUN]
    shapes = [row for row in kept if row["how"] == SHAPES]
    loaded = [*ran, *shapes]
    return [
        str(count),
        str(sum(row["channels_3"] == OK for row in ran)),
        str(sum(row["channels_3"] == OK for row in shapes)),
        str(sum(row["how"].startswith(AS) for row in kept)),
        str(count - len(kept)),
        str(sum(int(row["classes"]) > MANY for row in loaded)),
        str(sum(row["input_size"] != "3x224x224" for row in loaded)),
        str(sum(row["channels_1"] == OK for row in ran)),
        str(sum(row["channels_4"] == OK for row in ran)),
        str(sum(row["file"] == OK for row in ran)),
        str(sum(row["published"] not in (source, "timm") for row in kept)),
    ]


def wrong(row: Row) -> str:
    """What went wrong or was refused of a tag; empty where nothing did."""
    told = {row[key] for key in OUTCOMES} - {"", OK}
    return "; ".join(sorted(told)).replace("|", "/")


def main() -> None:
    """Run the tags that have no row yet, or make the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=(*SOURCES, "summary"))
    parser.add_argument("--part", default="1/1", help="such as 2/3: every third, from the second")
    parser.add_argument("--largest", type=float, default=500.0, help="millions of parameters")
    parser.add_argument("--shapes", action="store_true", help="load larger ones without numbers")
    options = parser.parse_args()
    if options.what == "summary":
        for source in SOURCES:
            sort(source)
        put(PAGE, START, summary())
    else:
        run(options.what, options.part, options.largest, shapes=options.shapes)


if __name__ == "__main__":
    main()
