"""Weights from a tag, a file or a download, and whether they fit the network."""

from __future__ import annotations

import pickle
import textwrap
import urllib.error
import urllib.request
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from transferkit.backbones.spec import LicenseWarning, WeightsSpec
from transferkit.errors import UnknownNameError, WeightsError

T = TypeVar("T")

StateDict = OrderedDict[str, Tensor]

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_PREFIXES = ("_orig_mod.", "module.", "_orig_mod.")
_COUNTER = "num_batches_tracked"  # a batch norm's step count: absent from old files, unused here
_SHOWN = 5
_REACH_SECONDS = 10.0


def choose_weights(
    weights: str | Path | None, specs: Sequence[WeightsSpec], *, name: str
) -> WeightsSpec | Path | None:
    """Read a ``weights=`` option: a tag's spec, a file's path, or None for random.

    Args:
        weights: ``"default"``, a tag, a path, or None.
        specs: The tags there are, the default first.
        name: The backbone, for the messages.

    Raises:
        UnknownNameError: There is no such tag.
        WeightsError: ``"default"`` was asked for and there is none; a file is absent.
    """
    if weights is None:
        return None
    if isinstance(weights, Path) or weights.endswith(_SUFFIXES):
        return _existing(Path(weights), name)
    tags = {spec.tag: spec for spec in specs}
    if weights in tags:
        return tags[weights]
    if weights.lower() == "default":
        if specs:
            return specs[0]
        raise WeightsError(
            f"{name} has no pretrained weights; use weights=None to start from random ones, "
            "or the path of a local file"
        )
    if Path(weights).is_file():
        return Path(weights)
    hint = "weights= also takes None (random) or the path of a .safetensors or .pth file."
    raise UnknownNameError.among(f"weights of {name}", weights, tags, hint=hint)


def read_state_dict(path: Path) -> StateDict:
    """Read a file of named tensors on the CPU; nothing in it is executed.

    Half-precision tensors become float32. A checkpoint that wraps the state dict
    (``"state_dict"``, ``"model"``, their averaged ``_ema`` kin) or that was saved from a
    parallel or compiled module is unwrapped.

    Args:
        path: A ``.safetensors`` file, or a file that ``torch.save`` wrote.

    Raises:
        WeightsError: The file is absent, damaged, of another format, or holds more than tensors.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    state = _unwrap(content)
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors or len(tensors) < len(state):
        kinds = sorted({type(value).__name__ for value in state.values()})
        raise WeightsError(
            f"{path}: expected a state dict, names mapped to tensors; "
            f"got {len(state)} entries of {', '.join(kinds) or 'nothing'}"
        )
    return state_dict_of(state, ((_clean(key), _full(value)) for key, value in tensors.items()))


def state_dict_of(origin: Mapping[str, object], items: Iterable[tuple[str, Tensor]]) -> StateDict:
    """Make a state dict of ``items`` that keeps the layout versions that ``origin`` carries."""
    result: StateDict = OrderedDict(items)
    versions = getattr(origin, "_metadata", None)
    if versions is not None:
        result.__dict__["_metadata"] = versions
    return result


def load_weights(
    module: nn.Module,
    state: Mapping[str, Tensor],
    *,
    name: str,
    origin: str,
    dropped: Sequence[str] = (),
    spare: bool = False,
) -> None:
    """Load ``state`` into ``module``, all of it, or say what does not fit.

    Args:
        module: The network; its own classifier may be there or not.
        state: Names mapped to tensors, in the network's key layout.
        name: The backbone, for the message.
        origin: The file or tag, for the message.
        dropped: Modules that may be absent from the file or have another shape there, and are
            not loaded then: the classifier, and the last layers of auxiliary classifiers.
        spare: Whether entries that the network has no place for are ignored.

    Raises:
        WeightsError: Keys are missing, unexpected or of another shape.
    """
    own = module.state_dict(keep_vars=True)
    keys = {key for key in (*own, *state) if _inside(key, dropped)}
    misfit = {key for key in keys if key not in own or _differ(own[key], state.get(key))}
    given = state_dict_of(state, ((k, v) for k, v in state.items() if k not in misfit))
    given.__dict__.setdefault("_metadata", _root_version(own))
    shapes = [
        f"{key} ({_describe(value)} instead of {_describe(own[key])})"
        for key, value in given.items()
        if key in own and _differ(own[key], value)
    ]
    broken = [key for key, value in given.items() if key in own and bool(value.isnan().any())]
    missing: Sequence[str] = [key for key in own if key not in given]
    unexpected: Sequence[str] = [key for key in given if key not in own]
    if not shapes and not broken:
        missing, unexpected = _load(module, given, name=name, origin=origin)
    loaded = {id(own[key]) for key in given if key in own}  # a shared tensor has several keys
    missing = [
        key
        for key in missing
        if key not in misfit and not key.endswith(_COUNTER) and id(own.get(key)) not in loaded
    ]
    if shapes or missing or broken or (unexpected and not spare):
        raise WeightsError(_misfit(name, origin, missing, unexpected, shapes, broken))


def fetch(download: Callable[[], T], *, name: str, tag: str, url: str | None = None) -> T:
    """Call ``download``, turning any failure of the network into a clear error.

    Args:
        download: What fetches and loads the weights.
        name: The backbone.
        tag: The weights' tag.
        url: An address to reach first, so that an absent network shows at once; None to skip.

    Raises:
        WeightsError: The weights cannot be fetched.
    """
    try:
        if url is not None:
            _reach(url)
        return download()
    except Exception as error:  # the clients' errors share no base narrower than this
        reason = _first_sentence(error)
        raise WeightsError(
            f"cannot fetch or load the weights {tag!r} of {name}: {reason}. Without a network, "
            "pass weights='path/to/file.safetensors' (or .pth) with a copy fetched elsewhere, "
            "weights=None to start from random ones, or take a backbone that comes embedded: "
            "list_backbones(source='transferkit')"
        ) from error


def warn_of_licence(spec: WeightsSpec, *, name: str) -> None:
    """Warn where the licence of the weights being loaded forbids commercial use."""
    if spec.non_commercial:
        warnings.warn(
            f"the weights {spec.tag!r} of {name} are licensed {spec.license}, "
            "which forbids commercial use",
            LicenseWarning,
            stacklevel=2,
        )


def _first_sentence(error: Exception) -> str:
    """The first line of a message, with the next where it announces that."""
    first, *more = [line.strip() for line in str(error).strip().splitlines()] or [""]
    if first.endswith(":") and more:
        return f"{first} {textwrap.shorten(more[0], 160)}"
    return first or type(error).__name__


def _existing(path: Path, name: str) -> Path:
    if path.is_file():
        return path
    what = "is not a file" if path.exists() else "does not exist"
    raise WeightsError(
        f"the weights file for {name}, {path}, {what}; expected a .safetensors or .pth file"
    )


def _read_safetensors(path: Path) -> Mapping[str, object]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read as a safetensors file: {error}") from error


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} is refused: it holds more than tensors (or is damaged), and Python objects "
            "in it could run code when loaded. Save a plain state dict, "
            "torch.save(model.state_dict(), path), or a .safetensors file"
        ) from error
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{path} cannot be read as a file of torch.save: {reason}") from error


def _unwrap(content: object) -> Mapping[str, object]:
    """The state dict inside a checkpoint, or the content itself."""
    if not isinstance(content, Mapping):
        raise WeightsError(
            f"expected a state dict in the weights file, got {type(content).__name__}"
        )
    for key in _WRAPPERS:
        inner = content.get(key)
        if isinstance(inner, Mapping):
            return inner
    return content


def _clean(key: str) -> str:
    for prefix in _PREFIXES:
        key = key.removeprefix(prefix)
    return key


def _full(value: Tensor) -> Tensor:
    half = value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def _inside(key: str, modules: Sequence[str]) -> bool:
    return any(key.startswith(f"{module}.") for module in modules)


def _differ(own: Tensor, given: Tensor | None) -> bool:
    """Whether a tensor is absent, of another shape, or whole numbers where fractions belong."""
    if given is None or own.shape != given.shape:
        return True
    return own.is_floating_point() and not given.is_floating_point()


def _describe(value: Tensor) -> str:
    kind = "" if value.is_floating_point() else f"{str(value.dtype).removeprefix('torch.')} "
    return kind + str(tuple(value.shape))


def _root_version(own: Mapping[str, Tensor]) -> dict[str, object]:
    """For a file that names no layout versions: the network's newest, its modules' unknown.

    torchvision's mnasnets refuse a file without one; every other module takes a missing
    version as a sign to bring old keys up to date.
    """
    versions: dict[str, object] = getattr(own, "_metadata", {})
    return {"": versions[""]} if "" in versions else {}


def _load(
    module: nn.Module, state: StateDict, *, name: str, origin: str
) -> tuple[list[str], list[str]]:
    """Load what fits; return the keys that are missing and those that are unexpected."""
    try:
        result = module.load_state_dict(state, strict=False)
    except (RuntimeError, ValueError) as error:
        raise WeightsError(f"{origin} does not fit {name}: {error}") from error
    return list(result.missing_keys), list(result.unexpected_keys)


def _misfit(
    name: str,
    origin: str,
    missing: Sequence[str],
    unexpected: Sequence[str],
    shapes: Sequence[str],
    broken: Sequence[str],
) -> str:
    kinds = (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of another shape", shapes),
        ("holding NaN", broken),
    )
    lines = [
        f"  {len(keys)} {kind}: {', '.join(keys[:_SHOWN])}{', ...' if len(keys) > _SHOWN else ''}"
        for kind, keys in kinds
        if keys
    ]
    return (
        f"{origin} does not fit {name}; its keys must be in the layout of the backbone's own "
        "library:\n" + "\n".join(lines)
    )


def _reach(url: str) -> None:
    """Fail at once where the network does; any answer of the server, an error too, will do."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_REACH_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
