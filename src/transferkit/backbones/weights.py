"""Weights from a tag, a file or a download, and whether they fit the network."""

from __future__ import annotations

import json
import pickle
import re
import textwrap
import urllib.error
import urllib.request
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from transferkit._validation import to_sides
from transferkit.backbones.channels import check_statistics
from transferkit.backbones.spec import LicenseWarning, WeightsSpec
from transferkit.errors import ConfigError, UnknownNameError, WeightsError

T = TypeVar("T")

StateDict = OrderedDict[str, Tensor]

SAVED = "transferkit"
"""The entry of a saved classifier's metadata."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_TORCH = (b"PK", b"\x80")  # how a zip archive and a pickle begin
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
_PREFIXES = re.compile(r"^(_orig_mod\.|module\.)+")  # of compiled and parallel modules
_COUNTER = "num_batches_tracked"  # a batch norm's step count: absent from old files, unused here
_LARGEST_VIEW = 2**26  # bytes of a tensor that the file holds less of, as of an expanded one
_SHOWN = 5
_REACH_SECONDS = 10.0


def choose_weights(
    weights: str | Path | None, specs: Sequence[WeightsSpec], *, name: str
) -> WeightsSpec | Path | None:
    """Read a ``weights=`` option: a tag's spec (the default is first), a file's path, or None."""
    if weights is None:
        return None
    if isinstance(weights, Path) or weights.endswith(_SUFFIXES):
        path = Path(weights)
        if not path.is_file():
            what = "is not a file" if path.exists() else "does not exist"
            raise WeightsError(f"The weights file of {name}, {path}, {what}.")
        return path
    tags = {spec.tag: spec for spec in specs}
    if weights in tags:
        return tags[weights]
    if weights.lower() == "default":
        if specs:
            return specs[0]
        raise WeightsError(
            f"{name} has no pretrained weights. Use weights=None to start from random ones, or the "
            "path of a local file."
        )
    if Path(weights).is_file():
        return Path(weights)
    hint = "weights= also takes None (random) or the path of a .safetensors or .pth file."
    raise UnknownNameError.among(f"weights of {name}", weights, tags, hint=hint)


def read_state_dict(path: Path) -> StateDict:
    """Read a file of named tensors on the CPU, unwrapped, half precision as float32."""
    content = _read(path)
    state = content
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            state = content[key]
            break
    if not isinstance(state, Mapping) or not state:
        raise _unreadable(path, f"it holds no tensors by name, but a {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(key, str):
            raise _unreadable(path, f"its key {key!r} is not a string")
        if not isinstance(value, Tensor):
            raise _unreadable(path, f"its entry {key!r} is of type {type(value).__name__}")
        odd = value.is_meta or value.is_quantized or value.is_nested
        if odd or value.layout is not torch.strided:
            raise _unreadable(path, f"its tensor {key!r} is sparse, quantised or without numbers")
        if value.nbytes > max(value.untyped_storage().nbytes(), _LARGEST_VIEW):
            raise _unreadable(path, f"its tensor {key!r} repeats a few numbers in {value.shape}")
    cleaned = ((_PREFIXES.sub("", key), value) for key, value in state.items())
    return state_dict_of(state, ((key, _as_float32(value)) for key, value in cleaned))


def saved_facts(path: Path) -> WeightsSpec | None:
    """The image size and the normalisation of a saved classifier; None for any other file."""
    try:
        with safe_open(path, framework="pt") as file:
            entry = (file.metadata() or {}).get(SAVED)
    except (OSError, SafetensorError):
        return None
    if entry is None:
        return None
    try:
        settings = json.loads(entry)["preprocess"]
        channels, mean, std = (settings[name] for name in ("in_channels", "mean", "std"))
        check_statistics(mean, std, channels, shared=True)
        size = (channels, *to_sides("image_size", settings["image_size"]))
        how = settings["interpolation"]
        return WeightsSpec(path.name, size, tuple(mean), tuple(std), how, num_classes=0)
    except (ValueError, LookupError, TypeError, RecursionError, ConfigError) as error:
        reason = textwrap.shorten(repr(error), 160)
        raise WeightsError(f"The recipe in {path} cannot be read: {reason}.") from error


def own_layout(state: StateDict, module: nn.Module) -> StateDict:
    """The part of a state dict that is the module's, if it was saved inside another."""
    # A saved classifier holds its network in ``backbone``, and one that is pooled in ``encoder``.
    own = module.state_dict().keys()
    for prefix in ("backbone.", "encoder."):
        part = [(key, value) for key, value in state.items() if key.startswith(prefix)]
        if part and not any(key.startswith(prefix) for key in own):
            state = OrderedDict((key.removeprefix(prefix), value) for key, value in part)
    return state


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
    """Load ``state`` into ``module``, all of it, or say what does not fit."""
    # Modules that are dropped (the classifier, the last layers of auxiliary ones) may be absent
    # from the file or have another shape there. Spare entries, which the network has no place
    # for, may be there.
    own = module.state_dict(keep_vars=True)
    inside = tuple(f"{one}." for one in dropped)
    left_out = {
        key
        for key in (*own, *state)
        if key.startswith(inside) and (key not in own or _differ(own[key], state.get(key)))
    }
    fitting = state_dict_of(state, ((k, v) for k, v in state.items() if k not in left_out))
    misfits = _misfits(fitting, own)
    if not any(misfits.values()):
        # Loading may rename old keys, so that torch knows better what is missing then.
        fitting.__dict__.setdefault("_metadata", _root_version(own))
        try:
            missing, unexpected = module.load_state_dict(fitting, strict=False)
        except (RuntimeError, ValueError) as error:
            raise WeightsError(f"{origin} does not fit {name}: {error}.") from error
    else:
        missing = [key for key in own if key not in fitting]
        unexpected = [key for key in fitting if key not in own]
    filled = {id(own[key]) for key in fitting if key in own}  # a shared tensor has several keys
    misfits["missing"] = [
        key
        for key in missing
        if key not in left_out and not key.endswith(_COUNTER) and id(own.get(key)) not in filled
    ]
    misfits["unexpected"] = [] if spare else unexpected
    if any(misfits.values()):
        raise _misfit_error(misfits, name, origin)


def _misfit_error(misfits: Mapping[str, Sequence[str]], name: str, origin: str) -> WeightsError:
    lines = (f"  {len(keys)} {kind}: {_listed(keys)}" for kind, keys in misfits.items() if keys)
    return WeightsError(
        f"{origin} does not fit {name}. Its keys must be in the layout of the backbone's own "
        "library:\n" + "\n".join(lines) + "."
    )


def _misfits(state: StateDict, own: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The entries of a state dict that cannot be loaded where they belong."""
    known = [key for key in state if key in own]
    return {
        "of another shape": [
            f"{key} ({_describe(state[key])} instead of {_describe(own[key])})"
            for key in known
            if _differ(own[key], state[key])
        ],
        "holding NaN": [key for key in known if bool(state[key].isnan().any())],
    }


def fetch(download: Callable[[], T], *, name: str, tag: str, url: str | None = None) -> T:
    """Call ``download``, turning any failure of the network into a clear error."""
    try:
        if url is not None:  # so that an absent network shows at once
            _reach(url)
        return download()
    except Exception as error:  # the clients' errors share no base narrower than this
        reason = _first_sentence(error)
        raise WeightsError(
            f"Cannot fetch or load the weights {tag!r} of {name}: {reason}. Without a network, "
            "pass weights='path/to/file.safetensors' (or .pth) with a copy fetched elsewhere, "
            "weights=None to start from random ones, or take a backbone that comes with the "
            "package: list_backbones(source='transferkit')."
        ) from error


def warn_of_licence(spec: WeightsSpec, *, name: str) -> None:
    """Warn where the licence of the weights being loaded forbids commercial use."""
    if spec.non_commercial:
        warnings.warn(
            f"The weights {spec.tag!r} of {name} are licensed {spec.license}, which forbids "
            "commercial use.",
            LicenseWarning,
            stacklevel=2,
        )


def _first_sentence(error: Exception) -> str:
    """The first line of a message, with the next where it announces that."""
    first, *more = [line.strip() for line in str(error).strip().splitlines()] or [""]
    if first.endswith(":") and more:
        return f"{first} {textwrap.shorten(more[0], 160)}"
    return first or type(error).__name__


def _read(path: Path) -> object:
    """What a file holds, by its first bytes and not by its suffix; nothing in it is executed."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
            if start.endswith(b"{"):  # after the eight bytes of a safetensors header's length
                return load_file(path)
            if start.startswith(_TORCH):
                file.seek(0)
                return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = (
            "it is damaged, or holds Python objects, which are refused because they can run code"
        )
        raise _unreadable(path, reason) from error
    except Exception as error:  # damaged files make the readers raise whatever there is
        raise _unreadable(path, str(error).strip() or type(error).__name__) from error
    raise _unreadable(path, f"it begins with {start!r}" if start else "it is empty")


def _unreadable(path: Path, reason: str) -> WeightsError:
    return WeightsError(
        f"Cannot read weights from {path}: {textwrap.shorten(reason, 160)}. Expected a state dict "
        "(names mapped to tensors), in a .safetensors file or in one written by "
        "torch.save(model.state_dict(), path). Fetch the file again, or save it so."
    )


def _as_float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() and value.element_size() < 4 else value


def _differ(own: Tensor, given: Tensor | None) -> bool:
    """Whether a tensor is absent, of another shape, or whole numbers where fractions belong."""
    if given is None or own.shape != given.shape:
        return True
    return own.is_floating_point() and not given.is_floating_point()


def _describe(value: Tensor) -> str:
    kind = "" if value.is_floating_point() else f"{str(value.dtype).removeprefix('torch.')} "
    return kind + str(tuple(value.shape))


def _root_version(own: Mapping[str, Tensor]) -> dict[str, object]:
    """For a file that names no layout versions: the network's newest, its modules' unknown."""
    # torchvision's mnasnets refuse a file without one; every other module takes a missing version
    # as a sign to bring old keys up to date.
    versions: dict[str, object] = getattr(own, "_metadata", {})
    return {"": versions[""]} if "" in versions else {}


def _listed(keys: Sequence[str]) -> str:
    return ", ".join([*keys[:_SHOWN], *(["..."] if len(keys) > _SHOWN else [])])


def _reach(url: str) -> None:
    """Fail at once where the network does; any answer of the server, an error too, will do."""
    request = urllib.request.Request(url, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_REACH_SECONDS).close()
    except urllib.error.HTTPError as error:
        error.close()
