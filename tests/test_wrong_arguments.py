"""What a user gets wrong on the first day ends in an error of ours that says what to do instead.

Every public function takes each kind of wrong thing here: never a traceback from torch or NumPy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

import transferkit as tk
from transferkit.backbones import catalog

NAME = "transferkit/formula_resnet18"
SPLITS = tk.phantom_splits(sizes=(24, 12, 12), image_size=32, seed=0)
TRAIN, VAL, TEST = SPLITS["train"], SPLITS["val"], SPLITS["test"]
DATASET = TensorDataset(torch.zeros(4, 3, 32, 32), torch.zeros(4))
EMPTY = tk.ImageData(np.zeros((0, 32, 32), np.uint8), [], classes=SPLITS.classes)
UNLABELLED = tk.ImageData(TRAIN.images, classes=SPLITS.classes)
ONE_CLASS = TRAIN.subset(TRAIN.require_labels("a test") == 0)
Job = Callable[[object], object]


def model(num_classes: int = 2) -> tk.Classifier:
    return tk.create_classifier(NAME, num_classes, image_size=32, seed=0)


def trainer(classifier: object = None) -> tk.Trainer:
    return tk.Trainer(model() if classifier is None else classifier, progress=False)


NO_IMAGES = {
    "None": (None, "got None"),
    "an array": (TRAIN.images, r"shape \(24, 32, 32, 1\).*tk.ImageData\(images, labels\)"),
    "a tensor": (torch.zeros(4, 3, 32, 32), r"tk.ImageData\(images, labels\)"),
    "a path": ("data/train", r"the path 'data/train'.*tk.load_splits\('data/train'\)"),
    "a Path": (Path("data"), r"tk.load_splits\('data'\)"),
    "a torch dataset": (DATASET, r"TensorDataset.*tk.ImageData\(images, labels\)"),
    "splits": (SPLITS, r"splits\[\"train\"\].*'train', 'val', 'test'"),
    "a pair": ((TRAIN.images, TRAIN.labels), "tuple"),
    "a number": (3, "int"),
    "no images": (EMPTY, r"[Nn]o images|empty"),
}
TAKE_IMAGES: dict[str, Job] = {
    "fit": lambda data: trainer().fit(data, VAL, epochs=1),
    "fit, val": lambda data: trainer().fit(TRAIN, data, epochs=1),
    "evaluate": lambda data: tk.evaluate(model(), data),
    "extract_features": lambda data: tk.extract_features(model(), data),
    "Splits": lambda data: tk.Splits({"train": data}),
    "with_split": lambda data: SPLITS.with_split("more", data),
    "reference": lambda data: tk.advise(SPLITS, NAME, image_size=32, reference=data),
}


MEANT = {("fit, val", "None"), ("reference", "None"), ("lr_find", "images")}


@pytest.mark.parametrize(("job", "what"), sorted({*product(TAKE_IMAGES, NO_IMAGES)} - MEANT))
def test_no_images(job: str, what: str) -> None:
    value, says = NO_IMAGES[what]
    with pytest.raises(tk.DataError, match=says):
        TAKE_IMAGES[job](value)


@pytest.mark.parametrize("value", [None, "a.png", {"a": 1}, 3, ["a.png"], DATASET, EMPTY])
def test_nothing_to_predict(value: object) -> None:
    with pytest.raises(tk.DataError):
        tk.predict(model(), value)


NO_SPLITS = {
    "None": (None, "Expected splits, got None"),
    "a path": ("data", r"the path 'data'. Load .*tk.load_splits\('data'\)"),
    "an array": (TRAIN.images, "Expected splits"),
    "images": (TRAIN, "Expected splits, got a value of type ImageData"),
    "a list": ([TRAIN, VAL], "mapping from names to images"),
    "nothing": ({}, "at least one split"),
    "arrays": ({"train": TRAIN.images, "val": VAL.images}, "'train' split must be an ImageData"),
    "pairs": ({"train": (TRAIN.images, TRAIN.labels)}, "'train' split must be an ImageData"),
    "datasets": ({"train": DATASET}, "'train' split must be an ImageData"),
    "None in them": ({"train": TRAIN, "val": None}, "'val' split must be an ImageData, got None"),
    "an empty split": ({"train": TRAIN, "val": EMPTY}, "no images"),
}
TAKE_SPLITS: dict[str, Job] = {
    "linear_probe": lambda splits: tk.linear_probe(model(), splits, epochs=1),
    "fine_tune": lambda splits: tk.fine_tune(model(), splits, epochs=1),
    "lp_ft": lambda splits: tk.lp_ft(model(), splits, epochs=1),
    "gradual_unfreeze": lambda splits: tk.gradual_unfreeze(model(), splits),
    "interpolate": lambda splits: tk.interpolate(model(), model(), splits),
    "compare": lambda splits: tk.compare([NAME], ["linear_probe"], splits),
    "rank_backbones": lambda splits: tk.rank_backbones([NAME], splits),
    "advise": lambda splits: tk.advise(splits, NAME),
    "audit_splits": tk.audit_splits,
    "explain_gap": tk.explain_gap,
    "resplit": partial(tk.resplit, seed=0),
    "Splits": tk.Splits,
    "lr_find": lambda splits: tk.lr_find(model(), splits),
}


@pytest.mark.parametrize(("job", "what"), sorted({*product(TAKE_SPLITS, NO_SPLITS)} - MEANT))
def test_no_splits(job: str, what: str) -> None:
    value, says = NO_SPLITS[what]
    with pytest.raises(tk.DataError, match=says):
        TAKE_SPLITS[job](value)


@pytest.mark.parametrize(
    "splits",
    [
        {"train": TRAIN, "test": TEST},
        {"train": UNLABELLED, "val": VAL},
        {"train": TRAIN, "val": UNLABELLED},
    ],
)
@pytest.mark.parametrize("job", ["linear_probe", "fine_tune", "lp_ft", "interpolate", "compare"])
def test_val_and_labels_are_needed(job: str, splits: dict[str, tk.ImageData]) -> None:
    with pytest.raises(tk.DataError, match=r"no 'val' split|needs labels"):
        TAKE_SPLITS[job](splits)


@pytest.mark.parametrize("job", ["linear_probe", "fine_tune", "lp_ft", "gradual_unfreeze"])
def test_one_class_cannot_be_learned(job: str) -> None:
    with pytest.raises(tk.DataError, match="of the class 'normal'"):
        TAKE_SPLITS[job]({"train": ONE_CLASS, "val": VAL})


NO_MODEL = {
    "None": (None, r"got None.*tk.create_classifier\(name, num_classes\)"),
    "a name": ("resnet18", r"tk.create_classifier\('resnet18', num_classes\)"),
    "a file": ("a.safetensors", r"tk.load_classifier\('a.safetensors'\)"),
    "another network": (torch.nn.Linear(2, 2), r"type Linear.*register_backbone"),
    "the class": (tk.Classifier, "the class Classifier"),
    "an array": (np.zeros(3), "ndarray"),
}
TAKE_MODELS: dict[str, Job] = {
    "Trainer": lambda value: tk.Trainer(value),
    "evaluate": lambda value: tk.evaluate(value, TEST),
    "predict": lambda value: tk.predict(value, TEST),
    "extract_features": lambda value: tk.extract_features(value, TEST),
    "lr_find": lambda value: tk.lr_find(value, TRAIN),
    "save_classifier": lambda value: tk.save_classifier(value, "x.safetensors"),
    "interpolate": lambda value: tk.interpolate(value, model(), SPLITS),
    "interpolate, second": lambda value: tk.interpolate(model(), value, SPLITS),
}
TAKE_MODELS_OR_NAMES: dict[str, Job] = {
    "linear_probe": lambda value: tk.linear_probe(value, SPLITS),
    "fine_tune": lambda value: tk.fine_tune(value, SPLITS),
    "lp_ft": lambda value: tk.lp_ft(value, SPLITS),
    "gradual_unfreeze": lambda value: tk.gradual_unfreeze(value, SPLITS),
}
TAKE_NETWORKS: dict[str, Job] = {
    "stages": tk.stages,
    "freeze": tk.freeze,
    "unfreeze": tk.unfreeze,
    "summary": tk.summary,
    "param_groups": partial(tk.param_groups, lr=0.1),
}


@pytest.mark.parametrize("what", NO_MODEL)
@pytest.mark.parametrize("job", TAKE_MODELS)
def test_no_model(job: str, what: str) -> None:
    value, says = NO_MODEL[what]
    with pytest.raises(tk.ConfigError, match=says):
        TAKE_MODELS[job](value)


@pytest.mark.parametrize("what", ["None", "another network", "the class", "an array"])
@pytest.mark.parametrize("job", TAKE_MODELS_OR_NAMES)
def test_no_model_and_no_name(job: str, what: str) -> None:
    value, says = NO_MODEL[what]
    with pytest.raises(tk.ConfigError, match=says):
        TAKE_MODELS_OR_NAMES[job](value)


@pytest.mark.parametrize("what", ["None", "a name", "the class", "an array"])
@pytest.mark.parametrize("job", TAKE_NETWORKS)
def test_no_network(job: str, what: str) -> None:
    with pytest.raises(tk.ConfigError, match="Expected a Classifier or another torch module"):
        TAKE_NETWORKS[job](NO_MODEL[what][0])


@pytest.mark.parametrize("value", [3, torch.nn.Linear(2, 2), tk.Classifier, np.zeros(3)])
@pytest.mark.parametrize("job", [tk.audit_splits, tk.explain_gap])
def test_nothing_that_makes_features(job: Callable[..., object], value: object) -> None:
    with pytest.raises(tk.ConfigError, match="model must be a Classifier, the name of a backbone"):
        job(SPLITS, model=value)


def registered(build: Callable[[], object]) -> tk.Classifier:
    tk.register_backbone("wrong", build)
    try:
        return tk.create_classifier("user/wrong", 2)
    finally:
        catalog._registered.clear()


WRONG_OPTIONS: dict[str, Callable[[], object]] = {
    "batch_size of evaluate": lambda: tk.evaluate(model(), TEST, batch_size=0),
    "batch_size of predict": lambda: tk.predict(model(), TEST, batch_size="32"),
    "batch_size of features": lambda: tk.extract_features(model(), TEST, batch_size=2.5),
    "batch_size of the audit": lambda: tk.audit_splits(SPLITS, batch_size=0),
    "lr of Trainer": lambda: tk.Trainer(model(), lr="fast"),
    "lr of fine_tune": lambda: tk.fine_tune(model(), SPLITS, lr=None),
    "warmup": lambda: tk.Trainer(model(), warmup="a"),
    "class_weights": lambda: tk.Trainer(model(), class_weights=["a", "b"]),
    "epochs": lambda: tk.fine_tune(model(), SPLITS, epochs="3"),
    "upto": lambda: tk.fine_tune(model(), SPLITS, upto=[1]),
    "steps": lambda: tk.gradual_unfreeze(model(), SPLITS, steps=1.5),
    "alphas": lambda: tk.interpolate(model(), model(), SPLITS, alphas=["a"]),
    "one alpha": lambda: tk.interpolate(model(), model(), SPLITS, alphas=0.5),
    "steps of lr_find": lambda: tk.lr_find(model(), TRAIN, steps="a"),
    "names": lambda: tk.rank_backbones(None, SPLITS),
    "a model among the names": lambda: tk.rank_backbones([model()], SPLITS),
    "max_images": lambda: tk.rank_backbones([NAME], SPLITS, max_images=0),
    "seed of rank_backbones": lambda: tk.rank_backbones([NAME], SPLITS, seed="a"),
    "backbone of advise": lambda: tk.advise(SPLITS, None),
    "seed of advise": lambda: tk.advise(SPLITS, NAME, seed=-1),
    "backbones": lambda: tk.compare(NAME, ["linear_probe"], SPLITS),
    "strategies": lambda: tk.compare([NAME], None, SPLITS),
    "seeds of compare": lambda: tk.compare([NAME], ["linear_probe"], SPLITS, seeds=["a"]),
    "executor": lambda: tk.compare([NAME], ["linear_probe"], SPLITS, executor=3),
    "alpha": lambda: tk.audit_splits(SPLITS, alpha="a"),
    "config": lambda: tk.audit_splits(SPLITS, config=3),
    "seeds of the audit": lambda: tk.audit_splits(SPLITS, seeds=3),
    "samples": lambda: tk.explain_gap(SPLITS, samples=0),
    "pattern": lambda: tk.list_backbones(3),
    "source": lambda: tk.list_backbones(source=3),
    "max_params": lambda: tk.backbone_table(max_params="a"),
    "name of get_backbone_spec": lambda: tk.get_backbone_spec(3),
    "name of register_backbone": lambda: tk.register_backbone(None, torch.nn.Identity),
    "build": lambda: tk.register_backbone("wrong", None),
    "input_size": lambda: tk.register_backbone("wrong", torch.nn.Identity, input_size=224),
    "mean": lambda: tk.register_backbone("wrong", torch.nn.Identity, mean=(0.5,)),
    "what build returns": lambda: registered(lambda: None),
    "what build takes": lambda: registered(lambda: torch.nn.Linear(3, 3)),
    "name": lambda: tk.create_classifier(None, 2),
    "num_classes": lambda: tk.create_classifier(NAME, "2"),
    "weights": lambda: tk.create_classifier(NAME, 2, weights=3),
    "dropout": lambda: tk.create_classifier(NAME, 2, dropout="a"),
    "image_size": lambda: tk.create_classifier(NAME, 2, image_size="a"),
    "classes": lambda: tk.create_classifier(NAME, 2, classes=3),
    "a head of one argument": lambda: tk.create_classifier(NAME, 2, head=lambda width: None),
    "seed of create_classifier": lambda: tk.create_classifier(NAME, 2, seed="a"),
    "path of load_classifier": lambda: tk.load_classifier(None),
    "path of save_classifier": lambda: tk.save_classifier(model(), 3),
    "path of load_splits": lambda: tk.load_splits(None),
    "image_size of load_splits": lambda: tk.load_splits(".", image_size=2.5),
    "val_share": lambda: tk.load_splits(".", val_share=None),
    "workers": lambda: tk.load_splits(".", workers="many"),
    "class_files": lambda: tk.load_splits(".", class_files={"a": 1}),
    "seed of resplit": lambda: tk.resplit(SPLITS, seed="a"),
    "groups of resplit": lambda: tk.resplit(SPLITS, seed=0, groups=3),
    "sizes": lambda: tk.phantom_splits(sizes=3),
    "shift": lambda: tk.phantom_splits(shift=None),
    "sites": lambda: tk.phantom_splits(sites={"test": 3}),
    "duplicates": lambda: tk.phantom_splits(duplicates={"train": 1}),
    "seed of phantom_splits": lambda: tk.phantom_splits(seed="a"),
    "rotation": lambda: tk.Augment(rotation="a"),
    "noise": lambda: tk.PhantomSite(noise=None),
    "epochs of a strategy": lambda: tk.Strategy(name="a", method="fine_tune", epochs=1.5),
    "lr of param_groups": lambda: tk.param_groups(model(), "a"),
}


@pytest.mark.parametrize("option", WRONG_OPTIONS)
def test_options_of_the_wrong_kind(option: str) -> None:
    with pytest.raises(tk.ConfigError):
        WRONG_OPTIONS[option]()


@pytest.mark.parametrize(
    "value", [None, "x", np.zeros((2, 3, 32, 32)), torch.zeros(3, 32, 32), TRAIN]
)
def test_a_classifier_takes_tensors_only(value: object) -> None:
    with pytest.raises(tk.DataError, match="Expected images"):
        model()(value)


@pytest.mark.parametrize("wrong", [lambda x: None, lambda x: x[:1], lambda x: x[0]])
def test_an_augmentation_that_loses_images(wrong: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(tk.TrainingError, match="augment must return a tensor of 24 images"):
        tk.Trainer(model(), augment=wrong, progress=False).fit(TRAIN, VAL, epochs=1)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"classes": "ab"}, "classes must be a list"),
        ({"classes": 3}, "classes must be a list"),
        ({"sizes": [1, 2]}, "sizes must be a height and a width"),
        ({"sizes": ["a", "b"]}, "sizes must be a height and a width"),
    ],
)
def test_fields_of_images(fields: dict[str, object], says: str) -> None:
    with pytest.raises(tk.DataError, match=says):
        tk.ImageData(np.zeros((2, 4, 5)), [0, 1], **fields)


@pytest.mark.parametrize("indices", [[24], [-25], "a", None, [0.5], ["a"], [True]])
def test_images_that_are_not_there(indices: object) -> None:
    for job in (TRAIN.subset, TRAIN.batch):
        with pytest.raises(tk.DataError):
            job(indices)


@pytest.mark.parametrize("pixels", [np.full((2, 4, 4), np.nan), torch.zeros(2, 4, 4).to_sparse()])
def test_pixels_that_cannot_be(pixels: object) -> None:
    with pytest.raises(tk.DataError):
        tk.predict(model(), pixels)


def test_paths_that_do_not_exist(tmp_path: Path) -> None:
    with pytest.raises(tk.DataError, match="does not exist"):
        tk.load_splits(tmp_path / "nowhere")
    with pytest.raises(tk.WeightsError, match="nowhere"):
        tk.load_classifier(tmp_path / "nowhere.safetensors")
    with pytest.raises(tk.OutputError, match="nowhere"):
        tk.save_classifier(model(), tmp_path / "nowhere" / "x.safetensors")
    with pytest.raises(tk.OutputError, match="no file name"):
        tk.save_classifier(model(), ".")
    with pytest.raises(tk.ConfigError, match="device"):
        tk.evaluate(model(), TEST, device="nowhere")


EVALUATION = tk.Predictions.of([[0.9, 0.1], [0.2, 0.8]], labels=[0, 1]).evaluation()
FIGURES: dict[str, Job] = {
    "accuracy_intervals": tk.plots.accuracy_intervals,
    "accuracy_vs_time": lambda value: tk.plots.accuracy_vs_time(value, {"a": 1.0}),
    "accuracy_vs_time, seconds": lambda value: tk.plots.accuracy_vs_time({"a": EVALUATION}, value),
    "confusion_matrix": tk.plots.confusion_matrix,
    "learning_curves": tk.plots.learning_curves,
    "probe_curve": tk.plots.probe_curve,
    "ranking": tk.plots.ranking,
    "reliability": tk.plots.reliability,
    "roc": tk.plots.roc,
    "save": lambda value: tk.plots.save(value, "x.png"),
}


@pytest.mark.parametrize("value", [None, 3, "result", np.zeros(3), []])
@pytest.mark.parametrize("figure", FIGURES)
def test_nothing_to_draw(figure: str, value: object) -> None:
    with pytest.raises(tk.DataError, match=r"draws|writes"):
        FIGURES[figure](value)


def test_a_result_in_the_place_of_its_parts() -> None:
    result = tk.linear_probe(model(), SPLITS, epochs=1, progress=False)
    with pytest.raises(tk.DataError, match=r"such as result.test.*got a value of type Result"):
        tk.plots.roc(result)
    with pytest.raises(tk.DataError, match=r"such as result.history"):
        tk.plots.learning_curves({"probe": result})
