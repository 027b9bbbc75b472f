"""Options and steps that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from transferkit._files import make_folder
from transferkit.errors import MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from transferkit.data.splits import Splits

Command = TypeVar("Command", bound=Callable[..., object])
FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)

data = click.argument("data", type=click.Path(path_type=Path))
seed = click.option("--seed", type=int, default=0, show_default=True)
device = click.option(
    "--device", help="cpu, cuda, cuda:1, mps.  [default: the GPU if there is one]"
)
batch_size = click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
image_size = click.option(
    "--image-size",
    type=click.IntRange(1),
    help="Side of the network's input, in pixels.  [default: the weights' own]",
)
weights = click.option(
    "--weights",
    default="default",
    show_default=True,
    callback=lambda _context, _option, text: none_or(text),
    help="default, none (random ones), a tag of 'transferkit info', or a file.",
)
cache = click.option(
    "--cache",
    type=click.Choice(["auto", "memory", "disk", "none"]),
    callback=lambda _context, _option, place: none_or(place),
    default="auto",
    show_default=True,
    help="Where to keep the activations of frozen layers; later commands reuse those on disk.",
)


def known_backbone(
    _context: click.Context, _option: click.Parameter, name: str | None
) -> str | None:
    """The name of a backbone, if there is one: an error comes before any image is read."""
    if name is not None:
        from transferkit.backbones.catalog import resolve

        resolve(name)
    return name


def _note(context: click.Context, option: click.Parameter, value: object) -> None:
    if value not in (None, ()):
        context.meta.setdefault(__name__, {})[option.name] = value


_noted = partial(click.option, expose_value=False, callback=_note)
_LOADING = (
    _noted(
        "--labels",
        help="A table of the labels (CSV, TSV), or a regular expression whose match in a file's "
        "name is its class.  [default: the names of the folders]",
    ),
    _noted(
        "--groups",
        help="Regular expression; its match in a file's name, or else in its folders, is the "
        "image's group (patient, film). A val split that is made keeps each group whole.",
    ),
    _noted(
        "--val-share",
        type=float,
        help="Share of train that becomes val where there is none.  [default: 0.2]",
    ),
    _noted(
        "--resize",
        type=click.Choice(["squash", "crop", "pad"]),
        help="How images of mixed shapes come to one size; crop and pad keep the aspect ratio, "
        "and predict does the same.  [default: squash]",
    ),
    _noted("--bits", type=int, help="Bit depth of 16-bit images.  [default: by their values]"),
    _noted(
        "--leave-out",
        multiple=True,
        help="Name or pattern of files and folders to leave out, such as masks. May be repeated.",
    ),
    _noted(
        "--skip-broken",
        "on_error",
        flag_value="skip",
        help="Skip images that cannot be read, and count them.",
    ),
)


def loading(command: Command) -> Command:
    """Add the options of reading DATA, which :func:`load` takes."""
    for option in reversed(_LOADING):
        command = option(command)
    return command


def load(data: Path, *, seed: int = 0) -> Splits:
    """Read DATA with the options of the command line."""
    from transferkit.data.load import load_splits

    return load_splits(data, seed=seed, **click.get_current_context().meta.get(__name__, {}))


@contextmanager
def results_in(folder: Path) -> Iterator[None]:
    """Make a folder for results; if the block ends without any, it goes again."""
    new = not folder.exists()
    make_folder(folder)
    try:
        yield
    finally:
        if new:
            with suppress(OSError):  # it has results
                folder.rmdir()


def none_or(text: str) -> str | None:
    """The text, or None where it says ``none``: no cache, random weights."""
    return None if text.lower() == "none" else text


def save_figures(draw: Callable[[], Mapping[str, Axes]], folder: Path) -> list[Path]:
    """Draw and save figures as PNG; without matplotlib print why there are none."""
    try:
        from transferkit import plots

        return [plots.save(figure, folder / f"{name}.png") for name, figure in draw().items()]
    except MissingDependencyError as error:
        click.echo(f"no figures: {error}")
        return []
