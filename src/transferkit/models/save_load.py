"""Save and load a classifier: one file with its tensors, and the recipe to build it again.

A ``.safetensors`` file holds tensors and text, and nothing that runs. Its metadata has one entry,
``"transferkit"``: the recipe, as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from transferkit._files import replacing
from transferkit._typing import JSON
from transferkit._validation import to_path
from transferkit._version import __version__
from transferkit.backbones.catalog import build_network
from transferkit.data.preprocess import Preprocess
from transferkit.errors import ConfigError, OutputError, UnknownNameError, WeightsError
from transferkit.models.classifier import Classifier, Recipe, require_classifier
from transferkit.models.device import place, seeded
from transferkit.models.freezing import frozen_stages, unfreeze
from transferkit.models.heads import HeadBuilder, HeadKind, build_head

FORMAT_VERSION = 1
_ENTRY = "transferkit"
_LISTED = 5


@dataclass(frozen=True, slots=True)
class _Saved:
    """The metadata of a saved classifier."""

    recipe: Recipe
    classes: tuple[str, ...]
    preprocess: Preprocess
    frozen: int
    head_is_trained: bool


def save_classifier(model: Classifier, path: str | Path) -> None:
    """Write a classifier to one ``.safetensors`` file, whole or not at all.

    A head that a callable built is saved too; loading it needs the same callable.

    Args:
        model: The classifier, on any device.
        path: The file; its folder must exist. An existing file is replaced.

    Raises:
        OutputError: The file cannot be written.
    """
    path = to_path("path", path)
    model = require_classifier(model)
    metadata = {_ENTRY: json.dumps(_describe(model))}
    with replacing(path) as draft:
        try:
            save_file(_apart(_distinct(model)), draft, metadata=metadata)
        except SafetensorError as error:
            raise OutputError(f"Cannot write the classifier to {path}: {error}.") from error


def load_classifier(
    path: str | Path, *, device: str | torch.device | None = None, head: HeadBuilder | None = None
) -> Classifier:
    """Load a saved classifier, in eval mode; it predicts what the saved one did.

    Args:
        path: A file that ``save_classifier`` wrote.
        device: Where to put it; the CPU by default.
        head: The callable that built the head, if the classifier was created with one.

    Raises:
        WeightsError: There is no such file, it holds no classifier of transferkit or one of a
            newer format, or its tensors do not fit its recipe.
        ConfigError: The head was built by a callable and ``head`` is missing, or the reverse.
        UnknownNameError: The backbone was registered by the user, and is not registered here.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import transferkit as tk
        >>> model = tk.create_classifier("resnet18", 2, weights=None, classes=["cat", "dog"])
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "classifier.safetensors"
        ...     tk.save_classifier(model, file)
        ...     again = tk.load_classifier(file)
        >>> again.name, again.classes
        ('torchvision/resnet18', ('cat', 'dog'))
    """
    source = to_path("path", path)
    saved, tensors = _read(source)
    model = _rebuild(saved, head)
    _fill(model, tensors, source)
    if not saved.head_is_trained:
        model._mark_head_as_fresh()
    if saved.frozen:
        unfreeze(model, upto=saved.frozen)
    place(model, device)
    return model.eval()


def _describe(model: Classifier) -> dict[str, JSON]:
    """The recipe, as JSON."""
    return {
        "format": FORMAT_VERSION,
        "version": __version__,
        "recipe": asdict(model.recipe),
        "classes": list(model.classes),
        "preprocess": model.preprocess.recipe(),
        "frozen": [stage.name for stage in frozen_stages(model)],
        "head_is_trained": model.head_is_trained,
    }


def _distinct(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers; one that has two names is under the first only."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            found.setdefault(id(tensor), (name, tensor))
    return dict(found.values())


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors without shared storages, which the file format does not allow."""
    seen: set[int] = set()
    apart = {}
    for name, tensor in tensors.items():
        value = tensor.detach().contiguous()
        storage = value.untyped_storage().data_ptr()
        apart[name] = value.clone() if storage in seen else value
        seen.add(storage)
    return apart


def _read(path: Path) -> tuple[_Saved, dict[str, Tensor]]:
    """The metadata and the tensors of a file."""
    if not path.is_file():
        raise WeightsError(f"No classifier at {path}: there is no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            saved = _parse(file.metadata() or {}, path)
            names = list(file.keys())
            return saved, {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a readable .safetensors file: {error}") from error


def _parse(metadata: Mapping[str, str], path: Path) -> _Saved:
    if _ENTRY not in metadata:
        raise WeightsError(
            f"{path} holds tensors but no recipe, so it is not a saved classifier. To start a "
            f"backbone from it, use create_classifier(..., weights={str(path)!r})."
        )
    try:
        described = json.loads(metadata[_ENTRY])
        if described["format"] > FORMAT_VERSION:
            raise WeightsError(
                f"{path} is of format {described['format']}, written by transferkit "
                f"{described.get('version')}; this is transferkit {__version__}, which reads up "
                f"to format {FORMAT_VERSION}: pip install --upgrade transferkit"
            )
        return _Saved(
            recipe=Recipe(**described["recipe"]),
            classes=tuple(described["classes"]),
            preprocess=Preprocess(**described["preprocess"]),
            frozen=len(described["frozen"]),
            head_is_trained=described.get("head_is_trained", True),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"The recipe in {path} cannot be read: {error!r}") from error


def _rebuild(saved: _Saved, builder: HeadBuilder | None) -> Classifier:
    """Build the classifier of a recipe, with random values."""
    recipe, preprocess = saved.recipe, saved.preprocess
    if recipe.head == "custom" and builder is None:
        raise ConfigError(
            "This classifier's head was built by a callable, which a file cannot hold. "
            "Give the same callable: load_classifier(path, head=...)."
        )
    if recipe.head != "custom" and builder is not None:
        raise ConfigError(f"This classifier's head is {recipe.head!r}; leave head= out.")
    with seeded(0):
        try:
            network = build_network(
                recipe.backbone,
                weights=None,
                in_channels=preprocess.in_channels,
                image_size=preprocess.image_size,
            )
        except UnknownNameError as error:
            raise UnknownNameError(
                f"{error} If it is a network of your own, call register_backbone first."
            ) from error
        kind = builder or cast(HeadKind, recipe.head)
        dropout = 0.0 if builder else recipe.dropout
        head = build_head(kind, network.feature_dim, len(saved.classes), dropout=dropout)
        model = Classifier(network, head, classes=saved.classes, recipe=recipe)
    model.preprocess = preprocess
    return model


def _fill(model: Classifier, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Set the tensors of the model to those of a file, which must fit exactly."""
    own = _distinct(model)
    wrong = [
        f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
        for name in own.keys() & tensors.keys()
        if own[name].shape != tensors[name].shape
    ]
    wrong += [f"{name} is missing" for name in own.keys() - tensors.keys()]
    wrong += [f"{name} is unexpected" for name in tensors.keys() - own.keys()]
    if wrong:
        more = f" and {len(wrong) - _LISTED} more" if len(wrong) > _LISTED else ""
        raise WeightsError(
            f"The tensors in {path} do not fit {model.name}: "
            f"{'; '.join(sorted(wrong)[:_LISTED])}{more}."
        )
    for name, tensor in own.items():
        tensor.data = tensors[name]
