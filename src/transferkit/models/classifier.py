"""The classifier: preprocessing, backbone and head as one module."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from transferkit._format import describe
from transferkit._validation import check_text, check_whole, to_sides
from transferkit.backbones.catalog import Resolved, build_network, resolve
from transferkit.backbones.channels import check_statistics
from transferkit.backbones.spec import Network
from transferkit.backbones.stages import Stage, copy_structure, record_calls, trace_stages, unwrap
from transferkit.data.image_data import ImageData, are_numbers
from transferkit.data.preprocess import Interpolation, Preprocess
from transferkit.data.splits import Splits
from transferkit.errors import ConfigError
from transferkit.models.device import plain_context, seeded
from transferkit.models.heads import HeadBuilder, HeadKind, build_head
from transferkit.models.structure import module_structure


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a classifier was built; with its tensors, enough to build it again.

    Attributes:
        backbone: Full name of the backbone: ``"torchvision/resnet50"``.
        weights: The pretrained weights it started from: a tag, a file's name, or None.
        head: The kind of head; ``"custom"`` for a callable of the user's own.
        dropout: Dropout of the head.
    """

    backbone: str
    weights: str | None
    head: Literal["linear", "mlp", "custom"]
    dropout: float


Data = TypeVar("Data", ImageData, Splits)


class Classifier(nn.Module):
    """Images in, logits out: ``preprocess``, then ``backbone``, then ``head``.

    Attributes:
        preprocess: Resizes and normalises uint8 images, or floats in [0, 1].
        backbone: Normalised images to features (B, D).
        head: Features to logits (B, K).
        recipe: How it was built.
        feature_dim: Width D of the features.
    """

    preprocess: Preprocess
    backbone: nn.Module
    head: nn.Module

    def __init__(
        self, network: Network, head: nn.Module, *, classes: Sequence[str], recipe: Recipe
    ) -> None:
        """Join a backbone, whose auxiliary classifiers are renewed, and a head."""
        super().__init__()
        self._classes = tuple(classes)
        _renew_auxiliary(network, len(classes))
        self.preprocess = Preprocess(
            image_size=network.input_size[1:],
            mean=network.mean,
            std=network.std,
            in_channels=network.input_size[0],
            interpolation=cast(Interpolation, network.interpolation),
        )
        self.backbone = network.module
        self.head = head
        self._created_head = module_structure(head, "head")
        self.recipe = recipe
        self.feature_dim = network.feature_dim
        self._removed = (network.classifier or "<classifier>", *network.aux)
        self._traced: tuple[Stage, ...] = ()

    if TYPE_CHECKING:

        def __call__(self, images: Tensor) -> Tensor:
            """As :meth:`forward`."""

    def forward(self, images: Tensor) -> Tensor:
        """Classify a batch.

        Args:
            images: uint8, or float in [0, 1]; (B, C, H, W).

        Returns:
            Logits (B, K).
        """
        return self.classify(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Features (B, D) of uint8 or [0, 1] images (B, C, H, W)."""
        output = self.backbone(self.preprocessed(images))
        features: Tensor = output if isinstance(output, Tensor) else output[0]
        return features

    def preprocessed(self, images: Tensor) -> Tensor:
        """The input of the backbone (B, C, H, W), in the type of its weights."""
        return _as_weights(self.preprocess(images), self.backbone)

    def classify(self, features: Tensor) -> Tensor:
        """Logits (B, K) of features (B, D)."""
        logits: Tensor = self.head(_as_weights(features, self.head))
        return logits

    def outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, K) of the head, then those of the auxiliary heads, if they run.

        GoogLeNet and Inception v3 have auxiliary heads, which run in train mode while no stage is
        frozen.
        """
        output = self.backbone(self.preprocessed(images))
        features, *aux = (output,) if isinstance(output, Tensor) else output
        return (self.classify(features), *(logits for logits in aux if logits is not None))

    @property
    def name(self) -> str:
        """Full name of the backbone."""
        return self.recipe.backbone

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; may be set to K other names."""
        return self._classes

    @classes.setter
    def classes(self, names: Sequence[str]) -> None:
        self._classes = check_classes(names, self.num_classes)

    @property
    def num_classes(self) -> int:
        """Number K of classes."""
        return len(self._classes)

    @property
    def head_is_trained(self) -> bool:
        """Whether the head was ever trained or loaded: its weights are not the initial ones.

        A head that is put in place of another counts as untrained until it changes; one whose
        weights were drawn anew in place, by ``reset_parameters()``, as trained.
        """
        weights = [parameter.detach().cpu() for parameter in self.head.parameters()]
        if not weights or len(weights) != len(self._initial_head):
            return True  # a head without parameters needs no training

        def unchanged(cast: torch.dtype) -> bool:
            pairs = zip(weights, self._initial_head, strict=True)
            return all(torch.equal(w, start.cpu().to(cast).to(w.dtype)) for w, start in pairs)

        # half precision, now or before, rounds the initial weights
        return not any(map(unchanged, {torch.float16, torch.bfloat16, weights[0].dtype}))

    def __setattr__(self, name: str, value: Tensor | nn.Module) -> None:
        """Set an attribute; a head in place of another was not trained yet."""
        old = set(self.head.parameters()) if name == "head" and "head" in self._modules else set()
        super().__setattr__(name, value)
        # a wrapped head, such as a compiled one, has parameters of the old one
        if name == "head" and not old.intersection(self.head.parameters()):
            self._mark_head_as_untrained()

    def _mark_head_as_untrained(self) -> None:
        """Take the head's weights for those that it was created with."""
        self._initial_head = [p.detach().clone() for p in self.head.parameters()]

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages from input to output; the last is ``"head"``."""
        names = [f"head.{name}" for name, _ in self.head.named_parameters()]
        *body, aux = self._backbone_stages()
        modules, parameters = (*aux.modules, "head"), (*aux.parameters, *names)
        return (*body, Stage("head", modules, parameters))

    def _backbone_stages(self) -> tuple[Stage, ...]:
        """The backbone's stages, then one stage of its auxiliary heads; traced once."""
        names = {f"backbone.{name}" for name, _ in self.backbone.named_parameters()}
        if names == {name for stage in self._traced for name in stage.parameters}:
            return self._traced
        size = (self.preprocess.in_channels, *self.preprocess.image_size)
        *body, last = trace_stages(self.backbone, size, head=self._removed)
        # what the last stage calls beside auxiliary heads, such as pooling, joins the one before
        aux = [m for m in last.modules if any(p.startswith(f"{m}.") for p in last.parameters)]
        rest = [name for name in last.modules if name not in aux]
        body[-1] = replace(body[-1], modules=(*body[-1].modules, *rest))
        self._traced = tuple(
            Stage(
                "backbone.head" if stage.name == "head" else stage.name,
                tuple(f"backbone.{name}" for name in stage.modules),
                tuple(f"backbone.{name}" for name in stage.parameters),
            )
            for stage in (*body, replace(last, modules=tuple(aux)))
        )
        return self._traced


def _as_weights(tensor: Tensor, module: nn.Module) -> Tensor:
    """The tensor in the floating type of a module's weights, which may be half precision."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return tensor.to(parameter.dtype)
    return tensor


def _renew_auxiliary(network: Network, num_classes: int) -> None:
    """Replace the published auxiliary classifiers of a network by new ones for these classes."""
    for name in network.aux:
        old = network.module.get_submodule(name)
        if not isinstance(old, nn.Linear):
            raise ConfigError(f"Expected {name} to be a linear layer, got {type(old).__name__}.")
        network.module.set_submodule(name, nn.Linear(old.in_features, num_classes))
    if not network.aux:
        return
    try:
        record_calls(network.module, network.input_size, training=True)
    except ConfigError:
        # images too small for an auxiliary head (Inception v3 below 267 pixels): taken off, as
        # torchvision does with aux_logits=False
        absent = dict.fromkeys((name.partition(".")[0] for name in network.aux), None)
        for attribute, value in {**absent, "aux_logits": False}.items():
            setattr(network.module, attribute, value)
        network.aux = ()


def shared_copy(model: Classifier, *, buffers: bool = True) -> Classifier:
    """A copy of the modules of ``model`` that shares parameters, hooks and, by default, buffers."""
    # another thread that uses the model does not see changed modes or skipped calls of the copy

    def stand_in(tensor: Tensor) -> Tensor:
        return tensor if buffers or isinstance(tensor, nn.Parameter) else tensor.clone()

    return cast(Classifier, copy_structure(model, stand_in))


def in_eval_mode(model: Classifier) -> Classifier:
    """``model`` itself where all of it is in eval mode, else a copy that shares its tensors."""
    if any(module.training for module in model.modules()):
        return shared_copy(model).eval()
    return model


def require_classifier(value: object) -> Classifier:
    """Refuse a model that is no classifier, saying how to get one."""
    if isinstance(value, Classifier):
        return value
    raise ConfigError(f"Expected a Classifier as the model, got {describe_model(value)}")


def describe_model(value: object) -> str:
    """What was given in place of a classifier, and in a second sentence how to get one."""
    if isinstance(value, str | Path) and Path(value).suffix == ".safetensors":
        hint = f"Load it first: tk.load_classifier({str(value)!r})."
    elif isinstance(value, str):
        hint = f"Build it first: tk.create_classifier({value!r}, num_classes)."
    elif isinstance(value, torch.jit.ScriptModule):
        hint = "Give the classifier that the TorchScript module was made of."
    elif isinstance(value, nn.Module) and isinstance(unwrap(value), Classifier):
        hint = "Give the classifier inside: model.module, or model._orig_mod of a compiled one."
    elif isinstance(value, nn.Module):
        hint = "Give a network of your own a name with tk.register_backbone, and build on that."
    else:
        hint = "Build one with tk.create_classifier(name, num_classes)."
    return f"{describe(value)}. {hint}"


def match_classes(model: Classifier, data: Data) -> Data:
    """The data in the model's class order; a model without class names goes by class numbers."""
    unnamed = are_numbers(model.classes) and not are_numbers(data.classes)
    if unnamed and model.num_classes == data.num_classes and model.head_is_trained:
        pairs = ", ".join(f"class {k} for {name!r}" for k, name in enumerate(data.classes))
        warnings.warn(
            "The model has no class names, so its classes are taken in the order of the data: "
            f"{pairs}. If it was trained in that order, set model.classes = {list(data.classes)}; "
            "if in another, to the names in that order.",
            stacklevel=4,
        )
    return data.with_classes(model.classes)


def take_classes(model: Classifier, data: Data) -> Data:
    """The same for training: a model without class names takes those of the data."""
    data = match_classes(model, data)
    model.classes = data.classes
    return data


def create_classifier(
    name: str,
    num_classes: int,
    *,
    weights: str | Path | None = "default",
    head: HeadKind | HeadBuilder = "linear",
    dropout: float = 0.0,
    in_channels: int = 3,
    image_size: int | tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Sequence[str] | None = None,
    seed: int | None = None,
) -> Classifier:
    """Build a classifier on any backbone of the catalog.

    Args:
        name: A backbone: ``"resnet50"``, ``"torchvision/resnet50"``, ``"timm/resnet50"``.
        num_classes: Number K of classes, at least 2.
        weights: ``"default"``, a tag, None (random), or a ``.safetensors`` or ``.pth`` file in
            the source library's key layout, or of a saved classifier.
        head: ``"linear"``, ``"mlp"``, or a callable from (in_features, num_classes) to a module.
        dropout: Dropout of the head, in [0, 1).
        in_channels: Channels of the images; pretrained first layers are adapted.
        image_size: Height and width in pixels that images are resized to; None takes the
            weights' own.
        mean: Mean of each channel, or one for all, to normalise images in [0, 1] with; None takes
            that of the tag or of the saved classifier. Weights from elsewhere may need another:
            wrong ones raise no error, only accuracy is lost.
        std: Standard deviation, likewise; ``mean`` and ``std`` are given together.
        classes: Names of the classes; ``"0"`` to ``"K-1"`` by default.
        seed: Fixes the random initial values; None takes torch's own generator.

    Raises:
        ConfigError: An option that cannot work.
        UnknownNameError: No such backbone.
        WeightsError: The weights cannot be fetched, read or fitted.

    Example:
        A backbone that comes with the package, so nothing is downloaded; images of any size:

        >>> import torch
        >>> import transferkit as tk
        >>> model = tk.create_classifier("transferkit/formula_resnet18", 3, image_size=64)
        >>> images = torch.zeros(5, 3, 80, 100, dtype=torch.uint8)
        >>> model(images).shape
        torch.Size([5, 3])
        >>> model.features(images).shape
        torch.Size([5, 384])

        Weights that were trained on values from -1024 to 1024, such as TorchXRayVision's: these
        are (x - mean) / std of the images x in [0, 1]:

        >>> model = tk.create_classifier(
        ...     "resnet50", 2, weights=None, in_channels=1, mean=[0.5], std=[1 / 2048]
        ... )
        >>> white = torch.full((1, 1, 224, 224), 255, dtype=torch.uint8)
        >>> [round(model.preprocess(images).max().item()) for images in (white, 0 * white)]
        [1024, -1024]
    """
    check_text("name", name)
    check_whole("num_classes", num_classes, least=2)
    check_whole("in_channels", in_channels, least=1)
    if seed is not None:
        check_whole("seed", seed)
    if image_size is not None:
        image_size = to_sides("image_size", image_size)
    if not (weights is None or isinstance(weights, str | Path)):
        raise ConfigError(f"weights must be 'default', a tag, None or a file, got {weights!r}.")
    if mean is not None or std is not None:
        check_statistics(mean, std, in_channels, shared=True)
    names = check_classes(classes or [str(k) for k in range(num_classes)], num_classes)
    found = resolve(name)
    kind = head if isinstance(head, str) else "custom"
    recipe = Recipe(found.full_name, _origin(found, weights), kind, dropout)
    with seeded(seed), plain_context():
        network = build_network(
            name, weights=weights, in_channels=in_channels, image_size=image_size
        )
        if mean is not None and std is not None:
            network.mean, network.std = tuple(mean), tuple(std)
        built = build_head(head, network.feature_dim, num_classes, dropout=dropout)
        return Classifier(network, built, classes=names, recipe=recipe)


def check_classes(classes: object, num_classes: int) -> tuple[str, ...]:
    """Return ``num_classes`` distinct names as a tuple; refuse anything else."""
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise ConfigError(f"Expected a list of {num_classes} class names, got {classes!r}.")
    names = tuple(map(str, classes))
    if len(names) != num_classes:
        raise ConfigError(f"Expected {num_classes} class names, got {len(names)}: {names}.")
    if len(set(names)) != len(names):
        raise ConfigError(f"Expected distinct class names, got {names}.")
    return names


def _origin(found: Resolved, weights: str | Path | None) -> str | None:
    """Name of the weights: a tag, the file's name, or None for random ones."""
    if weights is None:
        return None
    if weights == "default":
        tags = (spec.tag for spec in found.source.weights(found.name))
        return found.tag or next(tags, None)
    return Path(weights).name
