"""The page on loading runs as shown, and says what the code does."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from transferkit.data import decoded_cache
from transferkit.data.load import load_splits

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "loading.md").read_text(encoding="utf-8")


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30), number, np.uint8)).save(path)


class Pairs:
    """Twenty grey pictures of two classes, as a torch dataset."""

    targets = (0, 1) * 10

    def __len__(self):
        return 20

    def __getitem__(self, row):
        return Image.new("L", (9, 8), row), self.targets[row]


class Frame(dict):
    """As little of a data frame as is needed."""

    def __dataframe__(self):
        raise NotImplementedError

    @property
    def columns(self):
        return list(self)


def make_everything(root: Path) -> dict[str, object]:
    """Lay out a dataset of each form that the page names; return the objects that it names."""
    for number in range(40):
        title = "ab"[number // 20]
        save(root / "chest_xray" / ("train", "test")[number % 2] / title / f"person{number}.png", 9)
        for place in ("flowers", "elsewhere/flowers", f"folds/fold{number % 3 + 1}"):
            save(root / place / title / f"{number}.png", number)
        save(root / "skin" / f"{number}.png", number)
        save(root / "pets" / f"{('cat', 'dog')[number % 2]}{number}.png", number)
    shutil.make_archive(str(root / "flowers"), "zip", root, "flowers")
    columns = {
        "image_id": list(map(str, range(40))),
        "dx": ["nv", "mel"] * 20,
        "lesion_id": [str(number // 2) for number in range(40)],
    }
    rows = [",".join(row) for row in zip(*columns.values(), strict=True)]
    (root / "skin" / "metadata.csv").write_text("\n".join([",".join(columns), *rows]))
    (root / "skin" / "notes.md").write_text("x")
    images, labels = np.arange(20 * 64, dtype=np.uint16).reshape(20, 8, 8) % 256, np.arange(20) % 2
    images = images.astype(np.uint8)
    np.savez(root / "medmnist.npz", train_images=images, train_labels=labels[:, None])
    np.savez(root / "keras.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    for folder, arrays in (
        ("arrays", {"X_train": images, "y_train": labels}),
        ("course", {"a": images, "b": images}),
    ):
        (root / folder).mkdir()
        for name, array in arrays.items():
            np.save(root / folder / f"{name}.npy", array)
    return {"frame": Frame(columns), "dataset": Pairs(), "images": images, "labels": labels}


@pytest.mark.filterwarnings("ignore:Of metadata.csv the columns were read")
def test_it_runs_as_shown(tmp_path, monkeypatch, capsys):
    names = make_everything(tmp_path)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    for block in blocks:
        exec(compile(block, "loading.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "128x128x1" in printed
    assert "notes.md no image (.md)" in printed


def test_the_numbers_are_those_of_the_code():
    defaults = {k: v.default for k, v in inspect.signature(load_splits).parameters.items()}
    assert f"`memory_limit` ({defaults['memory_limit'] >> 30} GiB)" in PAGE
    assert f"`cache_limit` ({defaults['cache_limit'] // 10**9} GB)" in PAGE
    assert f"{decoded_cache.WORTH_KEEPING >> 20} MB" in PAGE
