"""The classifier as one module."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils
from torchvision.transforms import v2

import transferkit as tk
from transferkit.errors import ConfigError, DataError, UnknownNameError


def test_forward_is_head_of_features_of_preprocessed_images(make, images: Tensor) -> None:
    model = make("resnet18").eval()
    features = model.features(images)
    assert features.shape == (4, model.feature_dim) == (4, 512)
    assert torch.equal(model(images), model.head(features))
    assert torch.equal(features, model.backbone(model.preprocess(images)))
    assert torch.equal(model.outputs(images)[0], model(images))


def test_a_float_image_in_0_1_is_the_same_as_uint8(make, images: Tensor) -> None:
    model = make("resnet18").eval()
    torch.testing.assert_close(model(images), model(images.float() / 255), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "size", "count"), [("googlenet", 64, 2), ("inception_v3", 299, 1)]
)
def test_auxiliary_logits_come_in_full_training_only(make, name, size, count) -> None:
    model = make(name, 5, image_size=size)
    images = torch.zeros(2, 3, size, size)
    assert [o.shape for o in model.train().outputs(images)] == [(2, 5)] * (1 + count)
    assert model(images).shape == (2, 5)
    assert len(model.eval().outputs(images)) == 1
    tk.freeze(model)
    assert len(model.train().outputs(images)) == 1
    tk.unfreeze(model)
    assert len(model.train().outputs(images)) == 1 + count


def test_auxiliary_heads_are_left_out_where_images_are_too_small_for_them(make) -> None:
    model = make("inception_v3", image_size=96).train()
    assert [o.shape for o in model.outputs(torch.zeros(2, 3, 96, 96))] == [(2, 3)]
    assert not any("Aux" in name for name, _ in model.named_parameters())
    assert model.stages[-1].parameters == ("head.weight", "head.bias")


def test_every_auxiliary_parameter_learns(make) -> None:
    model = make("googlenet").train()
    main, *aux = model.outputs(torch.rand(2, 3, 64, 64))
    (main.sum() + 0.3 * sum(a.sum() for a in aux)).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_seed_decides_and_leaves_the_callers_generator_alone(make) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = make("resnet18"), make("resnet18"), make("resnet18", seed=1)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(one.head.weight, two.head.weight)
    assert torch.equal(one.backbone.conv1.weight, two.backbone.conv1.weight)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_class_names(make) -> None:
    model = make("resnet18", 2)
    assert model.classes == ("0", "1")
    model.classes = ["normal", "pneumonia"]
    assert model.classes == ("normal", "pneumonia")
    with pytest.raises(ConfigError, match="Expected 2 class names"):
        model.classes = ["a", "b", "c"]
    with pytest.raises(ConfigError, match="distinct"):
        make("resnet18", 2, classes=["a", "a"])
    with pytest.raises(ConfigError, match="Expected 3 class names"):
        make("resnet18", 3, classes=["a", "b"])


def test_fewer_than_two_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 or more"):
        tk.create_classifier("resnet18", 1, weights=None)


def test_an_unknown_backbone_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="resnet18"):
        tk.create_classifier("resnet-18", 2, weights=None)


def test_stages_follow_a_replaced_head(make) -> None:
    model = make("resnet18")
    assert model.stages[-1].parameters == ("head.weight", "head.bias")
    model.head = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 3))
    assert len(model.stages[-1].parameters) == 4
    assert [s.name for s in model.stages] == [
        "conv1",
        "layer1",
        "layer2",
        "layer3",
        "layer4",
        "head",
    ]


def test_grey_images_and_other_channels(make) -> None:
    model = make("resnet18", in_channels=4)
    assert model(torch.zeros(2, 4, 64, 64)).shape == (2, 3)
    model = make("resnet18", in_channels=1)
    assert model(torch.zeros(2, 1, 50, 70, dtype=torch.uint8)).shape == (2, 3)


def test_the_recipe_says_what_it_was_made_of(make) -> None:
    model = make("resnet18", head="mlp", dropout=0.25)
    assert model.name == "torchvision/resnet18"
    recipe = model.recipe
    assert (recipe.weights, recipe.head, recipe.dropout) == (None, "mlp", 0.25)
    assert make("resnet18", head=nn.Linear).recipe.head == "custom"


def test_it_knows_whether_its_head_was_ever_trained(make, tmp_path: Path) -> None:
    splits = tk.phantom_splits(sizes=(20, 10, 10), image_size=32, seed=0)
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
    file = tmp_path / "model.safetensors"

    def known(model: tk.Classifier) -> list[bool]:
        tk.save_classifier(model, file)
        return [m.head_is_trained for m in (model, copy.deepcopy(model), tk.load_classifier(file))]

    assert known(model) == [False] * 3
    other = copy.deepcopy(model)
    tk.linear_probe(model, splits, epochs=1, progress=False)
    assert known(model) == [True] * 3
    solved = copy.deepcopy(other)
    tk.linear_probe(solved, splits, solver="lbfgs", progress=False)
    assert known(solved) == [True] * 3
    other.load_state_dict(model.state_dict())
    assert known(other) == [True] * 3


@pytest.mark.parametrize(("dtype", "within"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_half_precision_is_close_to_full(images: Tensor, dtype: torch.dtype, within: float) -> None:
    full = tk.create_classifier("transferkit/formula_resnet18", 3, image_size=64, seed=0).eval()
    half = copy.deepcopy(full).to(dtype)
    arrays = images.permute(0, 2, 3, 1).numpy()
    for batch in (images, images.float() / 255):
        torch.testing.assert_close(half(batch).float(), full(batch), rtol=within, atol=within)
    got, want = (tk.predict(model, arrays).probabilities for model in (half, full))
    assert abs(got - want).max() < within
    features = tk.extract_features(half, tk.ImageData(arrays))
    assert str(features.features.dtype) == "float32"
    assert half.preprocess.recipe() == full.preprocess.recipe()


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_it_can_be_exported(images: Tensor, kind: str, strict: bool) -> None:
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=64, seed=0).eval()
    batch = images if kind == "uint8" else images.float() / 255
    dynamic = ({0: torch.export.Dim("batch", min=2, max=64)},)
    exported = torch.export.export(model, (batch,), dynamic_shapes=dynamic, strict=strict)
    more = torch.cat([batch, batch.flip(3)])
    torch.testing.assert_close(exported.module()(more), model(more), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_it_compiles_to_one_graph(images: Tensor, kind: str) -> None:
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=64, seed=0).eval()
    batch = images if kind == "uint8" else images.float() / 255
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(batch), model(batch), rtol=1e-4, atol=1e-5)
    with pytest.raises(DataError, match="floats from 0 to 255"):
        model(torch.tensor([0.0, 255.0]).view(1, 1, 1, 2))


def test_predictions_do_not_depend_on_the_callers_context(images: Tensor) -> None:
    def work() -> list[np.ndarray]:
        model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=64, seed=0)
        cache = tk.Cache(where="memory")
        data = tk.ImageData(images.permute(0, 2, 3, 1).numpy(), [0, 1, 0, 1])
        features = tk.extract_features(model, data, cache=cache).features
        return [tk.predict(model, data).probabilities, features]

    want = work()
    for context in (
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.no_grad(),
        torch.inference_mode(),
    ):
        with context:
            got = work()
        assert all(map(np.array_equal, got, want))


def test_a_classifier_made_in_inference_mode_can_be_trained() -> None:
    splits = tk.phantom_splits(sizes=(20, 10, 10), image_size=32, seed=0)
    cache = tk.Cache(where="memory")
    with torch.inference_mode():
        model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
        tk.extract_features(model, splits["train"], cache=cache)
    tk.linear_probe(model, splits, epochs=1, cache=cache, progress=False)
    assert model.head_is_trained


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.half(),
        lambda m: m.bfloat16().float(),
        lambda m: m.double().half().double(),
        lambda m: setattr(m, "head", nn.Linear(384, 2)),
        lambda m: setattr(
            m, "head", torch.nn.utils.parametrizations.weight_norm(nn.Linear(384, 2))
        ),
    ],
)
def test_neither_a_cast_nor_a_new_head_is_training(change, dropout: float) -> None:
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, dropout=dropout)
    change(model)
    assert not model.head_is_trained
    assert not copy.deepcopy(model).head_is_trained
    with torch.no_grad():
        next(model.head.parameters()).mul_(1.01)
    model.head = nn.Sequential(model.head)
    assert model.head_is_trained


def test_a_trained_model_without_class_names_says_which_order_it_takes() -> None:
    splits = tk.phantom_splits(sizes=(40, 20, 20), image_size=32, seed=0)
    first, second = splits.classes
    swapped = splits.with_classes([second, first])
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0)
    trained = tk.linear_probe(model, splits, solver="lbfgs", progress=False).classifier
    assert trained.classes == (first, second)
    want = tk.evaluate(trained, splits["test"])
    assert tk.evaluate(trained, swapped["test"]).accuracy == want.accuracy

    trained.classes = ["0", "1"]
    for order in (splits, swapped):
        told = f"class 0 for '{order.classes[0]}', class 1 for '{order.classes[1]}'"
        for use in (
            lambda order=order: tk.evaluate(trained, order["test"]),
            lambda order=order: tk.predict(trained, order["test"]),
            lambda order=order: tk.explain_gap(order, model=trained),
            lambda order=order: tk.lr_find(trained, order, steps=10),
            lambda order=order: tk.interpolate(trained, trained, order, alphas=[1]),
        ):
            with pytest.warns(UserWarning, match=told):
                use()
        assert trained.classes == ("0", "1")
    with pytest.warns(UserWarning, match=f"class 0 for '{second}'"):
        tk.linear_probe(trained, swapped, solver="lbfgs", progress=False)
    assert trained.classes == (second, first)


def normalised(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """By torchvision."""
    return v2.functional.normalize(
        v2.functional.to_dtype(pixels, torch.float32, scale=True), mean, std
    )


@pytest.mark.parametrize(
    ("channels", "mean", "std"),
    [(3, [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]), (3, [0.5], [0.25]), (1, [0.5], [1 / 2048])],
)
def test_weights_bring_a_normalisation_of_their_own(
    images: Tensor, tmp_path: Path, channels: int, mean: list[float], std: list[float]
) -> None:
    name, options = "transferkit/formula_resnet18", {"in_channels": channels, "image_size": 64}
    model = tk.create_classifier(name, 2, mean=mean, std=std, **options)
    pixels = images[:, :channels]
    want = normalised(pixels, mean, std)
    torch.testing.assert_close(model.preprocess(pixels), want, rtol=1e-5, atol=1e-3)

    path = tmp_path / "m.safetensors"
    tk.save_classifier(model, path)
    again = tk.load_classifier(path)
    assert torch.equal(again.preprocess(pixels), model.preprocess(pixels))
    # as weights, a saved classifier brings its image size and normalisation too
    start = tk.create_classifier(name, 5, weights=path, in_channels=channels).eval()
    assert start.preprocess.image_size == (64, 64)
    assert torch.equal(start.preprocess(pixels), again.preprocess(pixels))
    assert torch.equal(start.features(pixels), again.features(pixels))
    own = tk.create_classifier(name, 5, weights=path, mean=[0.4], std=[0.2], **options)
    assert own.preprocess.recipe()["mean"] == [0.4]


def test_a_changed_mean_goes_along_with_the_weights(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    model = tk.create_classifier("googlenet", 2, weights=None, image_size=96)
    model.preprocess.mean += 0.25
    tk.save_classifier(model, path)
    again = tk.create_classifier("googlenet", 3, weights=path)
    assert torch.equal(again.preprocess.mean, model.preprocess.mean)
    assert again.preprocess.image_size == (96, 96)
    # with other channels GoogLeNet does not change the normalisation within, and takes one half
    grey = tk.create_classifier("googlenet", 3, weights=path, in_channels=1)
    assert grey.preprocess.recipe()["mean"] == [0.5]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mean": [0.5]}, "std must hold a number for each of 3"),
        ({"std": [0.5]}, "mean must hold a number for each of 3"),
        ({"mean": [0.5, 0.5], "std": [0.5]}, "each of 3 channels, or one for all"),
        ({"mean": 0.5, "std": 0.5}, "each of 3 channels"),
        ({"mean": [0.5], "std": [0.0]}, "above 0"),
        ({"mean": [float("nan")], "std": [1.0]}, "finite"),
    ],
)
def test_a_normalisation_that_is_none_is_refused(options: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        tk.create_classifier("resnet18", 2, weights=None, **options)


def test_torch_vmap_maps_over_float_images() -> None:
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32, seed=0).eval()
    images = torch.rand(4, 1, 3, 40, 32)
    mapped = torch.vmap(model)(images).squeeze(1)
    torch.testing.assert_close(mapped, model(images.squeeze(1)), rtol=1e-4, atol=1e-5)


def test_wrapped_and_scripted_models_are_named() -> None:
    splits = tk.phantom_splits(sizes=(20, 10, 10), image_size=32, seed=0)
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32).eval()
    wrapped = (nn.DataParallel(model), torch.compile(model), swa_utils.AveragedModel(model))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch on tracing
        traced = torch.jit.trace(model, torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    for given, says in (*((one, r"model\.module") for one in wrapped), (traced, "TorchScript")):
        for use in (
            lambda given=given: tk.audit_splits(splits, model=given),
            lambda given=given: tk.explain_gap(splits, model=given),
            lambda given=given: tk.evaluate(given, splits["test"]),
        ):
            with pytest.raises(ConfigError, match=says):
                use()
    for use in (tk.stages, tk.freeze, tk.summary, lambda given: tk.param_groups(given, 0.1)):
        with pytest.raises(ConfigError, match="TorchScript"):
            use(traced)


@pytest.mark.parametrize("train", [tk.linear_probe, tk.fine_tune, tk.lr_find])
def test_half_precision_weights_and_mixed_precision_do_not_mix(train) -> None:
    splits = tk.phantom_splits(sizes=(20, 10, 10), image_size=32, seed=0)
    model = tk.create_classifier("transferkit/formula_resnet18", 2, image_size=32).half()
    with pytest.raises(ConfigError, match=r"got float16 ones\. Call model\.float\(\)"):
        train(model, splits, precision="bfloat16", progress=False)
