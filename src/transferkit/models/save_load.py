"""Save and load a classifier: one file with its tensors, and the recipe to build it again.

A ``.safetensors`` file holds tensors and text, and nothing that runs. Its metadata has one entry,
``"transferkit"``: the recipe, as JSON.
"""

from __future__ import annotations

import copy
import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
from transferkit.backbones.channels import check_statistics
from transferkit.backbones.skeleton import skeleton
from transferkit.backbones.weights import SAVED
from transferkit.data.preprocess import Preprocess
from transferkit.errors import ConfigError, DataError, OutputError, UnknownNameError, WeightsError
from transferkit.models.classifier import (
    Classifier,
    Recipe,
    check_classes,
    in_eval_mode,
    require_classifier,
)
from transferkit.models.device import device_of, place, plain_context, seeded
from transferkit.models.freezing import frozen_stages, unfreeze
from transferkit.models.heads import HeadBuilder, HeadKind, build_head
from transferkit.models.structure import differences, distinct_tensors, module_structure

FORMAT_VERSION = 1
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_LISTED = 5


@dataclass(frozen=True, slots=True)
class _Saved:
    """The metadata of a saved classifier."""

    recipe: Recipe
    classes: tuple[str, ...]
    preprocess: Preprocess
    frozen: tuple[str, ...]
    head_is_trained: bool
    head_logits: list[list[float]] | None = None  # what a head of the user's own computes

    @classmethod
    def of(cls, model: Classifier) -> _Saved:
        """Describe a classifier."""
        if not isinstance(model.preprocess, Preprocess):
            raise ConfigError(
                "A saved classifier holds the settings of a transferkit Preprocess, got a "
                f"{type(model.preprocess).__name__} as model.preprocess."
            )
        frozen = tuple(stage.name for stage in frozen_stages(model))
        logits = _sample_logits(model) if model.recipe.head == "custom" else None
        trained = model.head_is_trained
        return cls(model.recipe, model.classes, model.preprocess, frozen, trained, logits)

    def to_json(self) -> dict[str, JSON]:
        """The metadata, ready for JSON."""
        return {
            "format": FORMAT_VERSION,
            "version": __version__,
            "recipe": asdict(self.recipe),
            "classes": list(self.classes),
            "preprocess": self.preprocess.recipe(),
            "frozen": list(self.frozen),
            "head_is_trained": self.head_is_trained,
            "head_logits": cast(JSON, self.head_logits),
        }


def save_classifier(model: Classifier, path: str | Path) -> None:
    """Write a classifier to one ``.safetensors`` file, whole or not at all.

    A head that a callable built is saved too; loading it needs the same callable.

    Args:
        model: The classifier, on any device.
        path: The file; its folder must exist. An existing file is replaced.

    Raises:
        OutputError: The file cannot be written.
        ConfigError: The classifier was changed, so that it could not be loaded again: a replaced
            head, another setting of a layer, a hook, LoRA, pruning, quantised layers; the message
            says what differs.
        UnknownNameError: The backbone was registered by the user, and is not registered any more.
    """
    path = to_path("path", path)
    model = require_classifier(model)
    saved = _Saved.of(model)
    _check_loadable(model, saved)
    metadata = {SAVED: json.dumps(saved.to_json())}
    with replacing(path) as draft:
        try:
            save_file(_apart(distinct_tensors(model)), draft, metadata=metadata)
        except SafetensorError as error:
            raise OutputError(f"Cannot write the classifier to {path}: {error}.") from error


@plain_context()
def load_classifier(
    path: str | Path, *, device: str | torch.device | None = None, head: HeadBuilder | None = None
) -> Classifier:
    """Load a saved classifier, in eval mode; its predictions are those of the saved one.

    Args:
        path: A file that ``save_classifier`` wrote.
        device: Where to put it; the CPU by default.
        head: The callable that built the head, if the classifier was created with one.

    Raises:
        WeightsError: There is no such file, it holds no classifier of transferkit or one of a
            newer format, or its tensors do not fit its recipe.
        ConfigError: The head was built by a callable and ``head`` is missing, or the reverse; or
            ``head`` builds one that computes something else.
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
    saved = _read(source)
    model = _build(saved, _head_maker(saved, head))
    _fill(model, source)
    _check_head(model, saved)
    if not saved.head_is_trained:
        model._mark_head_as_untrained()
    if saved.frozen:
        unfreeze(model, upto=len(saved.frozen))
    place(model, device)
    return model.eval()


def _check_loadable(model: Classifier, saved: _Saved) -> None:
    """Refuse a classifier whose modules or tensors are not those that its recipe builds."""
    own = saved.recipe.head == "custom"  # only the user has the callable
    make_head = (lambda _: copy.deepcopy(model.head)) if own else _head_maker(saved, None)
    settings = json.loads(json.dumps(saved.preprocess.recipe()))  # as a file holds them
    loaded = replace(saved, preprocess=Preprocess(**settings))
    try:
        built = skeleton(lambda: _build(loaded, make_head))
    except RuntimeError:  # a network of the user's own that cannot be built without memory
        built = _build(loaded, make_head)
    expected = module_structure(built)
    if own:
        others = {n: text for n, text in expected.items() if n.partition(".")[0] != "head"}
        expected = others | model._created_head
    problems = differences(module_structure(model), expected)
    if problems:
        raise ConfigError(
            "This classifier was changed since it was created, so that a file of it could not be "
            f"loaded as the same one: {_listed(problems)}. Undo the change, save "
            "model.state_dict() yourself, or create it with such parts: "
            "create_classifier(head=...), register_backbone(...)."
        )


def _listed(problems: Sequence[str]) -> str:
    more = f" and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return "; ".join(problems[:_LISTED]) + more


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


def _sample_logits(model: Classifier) -> list[list[float]] | None:
    """Logits of some fixed features, small and large; None where they are random."""
    features = torch.arange(4.0 * model.feature_dim).sin().view(4, -1)
    features *= torch.tensor([[0.1], [1.0], [10.0], [100.0]])
    still = in_eval_mode(model)
    with torch.inference_mode(), seeded(0):
        first, second = (still.classify(features.to(device_of(model))).float() for _ in range(2))
    return first.tolist() if torch.equal(first, second) else None


def _check_head(model: Classifier, saved: _Saved) -> None:
    """Refuse a callable that builds another head than the saved one, with tensors of its shapes."""
    got = None if saved.head_logits is None else _sample_logits(model.eval())
    expected, logits = torch.tensor(saved.head_logits or ()), torch.tensor(got or ())
    if not (expected.numel() and logits.numel() and expected.isfinite().all()):
        return
    half = any(parameter.element_size() == 2 for parameter in model.head.parameters())
    largest = expected.abs().amax(dim=1, keepdim=True)
    alike = expected.shape == logits.shape
    if not alike or ((logits - expected).abs() > largest * (0.05 if half else 1e-3)).any():
        raise ConfigError(
            "The callable given as head builds one with the tensors of the saved head that "
            "computes something else from them. Give the callable that built it."
        )


def _read(path: Path) -> _Saved:
    """The metadata of a file."""
    if not path.is_file():
        raise WeightsError(f"No classifier at {path}: there is no such file.")
    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            widest = max((size for n in names for size in file.get_slice(n).get_shape()), default=0)
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path} is not a readable .safetensors file: {error}") from error
    return _parse(metadata, path, widest)


def _parse(metadata: Mapping[str, str], path: Path, widest: int) -> _Saved:
    """The recipe, typed; no tensor of the file is larger than ``widest`` in any dimension."""
    if SAVED not in metadata:
        raise WeightsError(
            f"{path} holds tensors but no recipe, so it is not a saved classifier. To start a "
            f"backbone from it, use create_classifier(..., weights={str(path)!r})."
        )
    try:
        described = json.loads(metadata[SAVED])
        if described["format"] > FORMAT_VERSION:
            raise WeightsError(
                f"{path} is of format {described['format']}, written by transferkit "
                f"{described.get('version')}; this is transferkit {__version__}, which reads up "
                f"to format {FORMAT_VERSION}. Upgrade it: pip install --upgrade transferkit."
            )
        settings = described["preprocess"]
        if settings["in_channels"] > widest:  # before memory is taken for so many
            raise ValueError("no layer takes so many channels as in_channels says")
        mean, std, channels = (settings[name] for name in ("mean", "std", "in_channels"))
        check_statistics(mean, std, channels, shared=True)
        classes, logits = tuple(described["classes"]), described.get("head_logits")
        return _Saved(
            recipe=Recipe(**described["recipe"]),
            classes=check_classes(classes, len(classes)),
            preprocess=Preprocess(**settings),
            frozen=tuple(described["frozen"]),
            head_is_trained=described.get("head_is_trained", True),
            head_logits=None if logits is None else torch.tensor(logits).view(4, -1).tolist(),
        )
    except (
        *(ValueError, LookupError, TypeError, AttributeError, RuntimeError, OverflowError),
        *(RecursionError, ConfigError, DataError),
    ) as error:
        reason = textwrap.shorten(repr(error), 160)
        raise WeightsError(f"The recipe in {path} cannot be read: {reason}.") from error


def _head_maker(saved: _Saved, builder: HeadBuilder | None) -> Callable[[int], nn.Module]:
    """Builds the head of a recipe, given the width of the features."""
    recipe = saved.recipe
    if recipe.head == "custom" and builder is None:
        raise ConfigError(
            "This classifier's head was built by a callable, which a file cannot hold. "
            "Give the same callable: load_classifier(path, head=...)."
        )
    if recipe.head != "custom" and builder is not None:
        raise ConfigError(f"This classifier's head is {recipe.head!r}; leave head= out.")
    kind = builder or cast(HeadKind, recipe.head)
    return lambda width: build_head(kind, width, len(saved.classes), dropout=recipe.dropout)


def _build(saved: _Saved, make_head: Callable[[int], nn.Module]) -> Classifier:
    """Build the classifier of a recipe, with random values."""
    recipe, preprocess = saved.recipe, saved.preprocess
    with seeded(0), plain_context():
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
        head = make_head(network.feature_dim)
        model = Classifier(network, head, classes=saved.classes, recipe=recipe)
    model.preprocess = copy.deepcopy(preprocess)
    return model


def _fill(model: Classifier, path: Path) -> None:
    """Set the tensors of the model to those of a file, which must fit exactly."""
    own = distinct_tensors(model)
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
        shapes = {name: _shape(file.get_slice(name).get_shape()) for name in names}
        wrong = differences(shapes, {name: _shape(tensor.shape) for name, tensor in own.items()})
        tensors = {} if wrong else {name: file.get_tensor(name) for name in own}
    wrong += [
        f"{name} is of type {tensor.dtype}, expected {own[name].dtype}"
        for name, tensor in tensors.items()
        if not (tensor.dtype == own[name].dtype or {tensor.dtype, own[name].dtype} <= _FLOATS)
    ]
    if wrong:
        raise WeightsError(f"The tensors in {path} do not fit {model.name}: {_listed(wrong)}.")
    for name, tensor in own.items():
        tensor.data = tensors[name]


def _shape(sizes: Sequence[int]) -> str:
    return f"of shape {tuple(sizes)}"
