"""Load every torchvision tag, and a sample of timm's, from a state dict in the library's layout.

    python benchmarks/weights_paths.py torchvision      # every tag, some twenty minutes
    python benchmarks/weights_paths.py timm             # the smallest networks of each family
    python benchmarks/weights_paths.py timm --per-family 1 --largest 30

No weights are downloaded: the library gives the layout of each published network, and
random numbers in that layout stand for the file that its address would give. The tag is then loaded
as a user loads it, and every tensor compared with the library's own; likewise for 1 and 4
channels, where the first layer must hold the sums and the scaled repetitions. One row a tag
goes to benchmarks/results/; rows already there are kept, so that a run can be resumed.
"""

from __future__ import annotations

import argparse
import csv
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import timm
import torch
from timm.models import get_pretrained_cfg, model_entrypoint
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torchvision import models

from transferkit.backbones.catalog import build_network, list_backbones, resolve
from transferkit.backbones.measures import published_measures
from transferkit.backbones.skeleton import skeleton
from transferkit.backbones.spec import LicenseWarning, WeightsSpec
from transferkit.backbones.surgery import PooledEncoder

RESULTS = Path(__file__).parent / "results"
_DRAWS = frozenset({Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.bernoulli_})
FIELDS = ("name", "tag", "classes", "input_size", "channels_3", "channels_1", "channels_4")


class WithoutInitialisation(TorchFunctionMode):
    """Put zeros where a network would draw random numbers, to save the time."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        drawn = func in _DRAWS or getattr(func, "__module__", "") == "torch.nn.init"
        options = dict(kwargs or {})
        if drawn:  # zeros, because some draw again until all numbers are in range
            tensor: Tensor = args[0] if args else options["tensor"]
            with torch.no_grad():
                return tensor.zero_()
        return func(*args, **options)


def published_state(full: str, spec: WeightsSpec) -> dict[str, Tensor]:
    """Random numbers in the layout of the network that its own library makes for these weights."""
    source, _, name = full.partition("/")

    def make() -> nn.Module:
        if source == "timm":
            tag = None if spec.tag == "default" else spec.tag
            made: nn.Module = timm.create_model(name, pretrained_cfg=tag)
            return made
        options: dict[str, object] = {}
        if name.startswith("vit_"):
            options = {"image_size": spec.input_size[1]}
        if name in ("googlenet", "inception_v3"):
            options = {"aux_logits": True, "init_weights": False}
        made = models.get_model(name, weights=None, **options)
        return made.train()

    drawn: dict[int, Tensor] = {}  # one for each tensor: some networks share theirs
    state = {}
    for key, value in skeleton(make).state_dict(keep_vars=True).items():
        if id(value) not in drawn:
            whole = torch.zeros(value.shape, dtype=value.dtype)
            drawn[id(value)] = torch.rand(value.shape) if value.is_floating_point() else whole
        state[key] = drawn[id(value)]
    return state


def compare(
    state: dict[str, Tensor], module: nn.Module, channels: int, lacking: tuple[str, ...]
) -> str:
    """Compare a built network with the published state dict; empty where all is right."""
    prefix = "encoder." if isinstance(module, PooledEncoder) else ""
    for key, value in module.state_dict().items():
        if key.startswith(lacking):
            continue
        source = state[key.removeprefix(prefix)]
        if value.shape == source.shape:
            same = torch.equal(value, source)
        elif source.ndim == 4 and source.shape[1] == 3:
            turn = torch.arange(channels) % 3
            expected = source.sum(1, keepdim=True) if channels == 1 else source[:, turn] * 3 / 4
            same = torch.allclose(value, expected, atol=1e-6)
        else:  # pixels gathered first: their order is found, and tested elsewhere
            ratio = source.shape[1] / value.shape[1]
            same = ratio == 3 / channels and bool(value.isfinite().all())
        if not same:
            return f"{key} differs"
    return ""


def check(full: str, spec: WeightsSpec, channels: int, state: dict[str, Tensor]) -> str:
    """Load a tag as a user does, its download replaced; "ok" or what went wrong."""

    def give(*_: object, **__: object) -> dict[str, Tensor]:
        return {key: value.clone() for key, value in state.items()}

    with ExitStack() as stack:
        stack.enter_context(patch("torchvision.models._api.load_state_dict_from_url", give))
        stack.enter_context(patch("timm.models._builder.load_state_dict_from_hf", give))
        stack.enter_context(patch("timm.models._builder.load_state_dict_from_url", give))
        stack.enter_context(patch("transferkit.backbones.weights._reach", lambda _: None))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", LicenseWarning)
        try:
            with WithoutInitialisation():
                network = build_network(full, weights=spec.tag, in_channels=channels)
        except Exception as error:  # any failure is a row of the table
            return f"{type(error).__name__}: {error}".replace("\n", " ")[:200]
    size_right = network.input_size == (channels, *spec.input_size[1:])
    # VGG16's features alone leave its fully connected layers random
    lacking = ("classifier.",) if spec.tag == "IMAGENET1K_FEATURES" else ()
    wrong = compare(state, network.module, channels, lacking)
    return (wrong or "ok") if size_right else "wrong size"


def sample(source: str, per_family: int) -> Iterator[str]:
    """All of torchvision; of timm, the smallest pretrained networks of each family."""
    names = list_backbones(source=source, pretrained=True)
    if source == "torchvision":
        yield from names
        return
    measures, taken = published_measures(), dict[str, int]()
    for name in sorted(names, key=lambda name: measures[name].num_params):
        family = model_entrypoint(name.partition("/")[2]).__module__
        taken[family] = taken.get(family, 0) + 1
        if taken[family] <= per_family:
            yield name


def is_foreign(full: str, spec: WeightsSpec) -> bool:
    """Whether timm reads these weights from another library's format, which nothing here makes."""
    config = get_pretrained_cfg(f"{full.partition('/')[2]}.{spec.tag}")
    return config is not None and config.custom_load


def cases(source: str, per_family: int, largest: float) -> Iterator[tuple[str, WeightsSpec]]:
    """The tags to load: of one network, one for each number of classes and input size."""
    measures = published_measures()
    for name in sample(source, per_family):
        if measures[name].num_params > largest * 1e6:
            continue
        seen = set()
        for spec in resolve(name).source.weights(name.partition("/")[2]):
            kind = (spec.num_classes, spec.input_size)
            if not (source == "timm" and is_foreign(name, spec)) and (
                source == "torchvision" or kind not in seen
            ):
                seen.add(kind)
                yield name, spec


def main() -> None:
    """Run the cases that have no row yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", choices=("torchvision", "timm"))
    parser.add_argument("--per-family", type=int, default=3)
    parser.add_argument("--largest", type=float, default=330.0, help="millions of parameters")
    options = parser.parse_args()
    path = RESULTS / f"weights_paths_{options.source}.csv"
    path.parent.mkdir(exist_ok=True)
    done = set()
    if path.exists():
        done = {(row["name"], row["tag"]) for row in csv.DictReader(path.open())}
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if not done:
            writer.writeheader()
        for name, spec in cases(options.source, options.per_family, options.largest):
            if (name, spec.tag) in done:
                continue
            state = published_state(name, spec)
            row = {f"channels_{c}": check(name, spec, c, state) for c in (3, 1, 4)}
            size = "x".join(map(str, spec.input_size))
            writer.writerow(
                {"name": name, "tag": spec.tag, "classes": spec.num_classes, "input_size": size}
                | row
            )
            file.flush()


if __name__ == "__main__":
    main()
