"""What stands in for the calls that are skipped."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from transferkit.models.frozen_prefix import Leaf, ShortcutError, Template, watched


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.data(),
    st.integers(1, 5),
)
def test_packing_and_unpacking_keep_values_shape_and_layout(shape, data, count) -> None:
    order = data.draw(st.permutations(range(len(shape))))
    dim = data.draw(st.sampled_from(range(len(shape))))

    def output(images: int) -> Tensor:
        full = [size * images if d == dim else size for d, size in enumerate(shape)]
        values = torch.rand([full[d] for d in order])
        return values.permute(sorted(range(len(order)), key=order.__getitem__))

    template = Template.of(output(2), output(3))
    made = output(count)
    (packed,) = template.pack(made)
    assert packed.is_contiguous()
    assert len(packed) == count
    back = template.filled(lambda leaf: leaf.unpack(packed))
    assert torch.equal(back, made)
    if order[0] == dim:
        large = [d for d in range(made.ndim) if made.shape[d] > 1]
        assert [back.stride(d) for d in large] == [made.stride(d) for d in large]
    blank = template.filled(lambda leaf: leaf.blank(count, torch.device("cpu"), dense=False))
    assert blank.shape == made.shape
    assert blank.isnan().all()


def test_a_view_is_not_copied() -> None:
    template = Template.of(torch.zeros(2, 3, 4), torch.zeros(3, 3, 4))
    output = torch.rand(5, 3, 4)
    assert template.pack(output)[0].data_ptr() == output.data_ptr()


def test_what_does_not_depend_on_the_batch_is_kept_as_it_is() -> None:
    grid = torch.arange(4.0)
    template = Template.of(
        {"x": torch.zeros(2, 3), "size": (7, 7), "grid": grid},
        {"x": torch.zeros(3, 3), "size": (7, 7), "grid": grid},
    )
    x = torch.rand(4, 3)
    assert len(template.pack({"x": x, "size": (7, 7), "grid": grid})) == 1
    back = template.filled(lambda leaf: leaf.unpack(x))
    assert torch.equal(back["x"], x)
    assert torch.equal(back["grid"], grid)
    assert back["size"] == (7, 7)


@pytest.mark.parametrize(
    ("two", "three", "says"),
    [
        ((torch.zeros(2), 2), (torch.zeros(3), 3), "depends on the batch"),
        (torch.zeros(4), torch.ones(4), "mixes the images"),
        (torch.zeros(2, 2), torch.zeros(3, 3), "without a dimension"),
        (torch.zeros(2, 2), torch.zeros(5, 2), "without a dimension"),
        (torch.zeros(2, 2), torch.zeros(3, 2, 1), "without a dimension"),
        ([torch.zeros(2)], (torch.zeros(3),), "nested differently"),
        (object(), object(), "depends on the batch"),
    ],
)
def test_what_cannot_be_kept_image_by_image_is_refused(two, three, says) -> None:
    with pytest.raises(ShortcutError, match=says):
        Template.of(two, three)


def test_integers_have_no_nan() -> None:
    leaf = Leaf.of(torch.zeros(2, 3, dtype=torch.long), torch.zeros(3, 3, dtype=torch.long))
    blank = leaf.blank(4, torch.device("cpu"), dense=True)
    assert blank.dtype == torch.long
    assert not blank.any()


class Twice(nn.Module):
    """Calls one part by itself and another that calls it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ReLU()
        self.outer = nn.Sequential(self.inner, nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.outer(self.inner(x)))


def test_only_outermost_calls_are_seen_and_nothing_stays_behind() -> None:
    module = Twice()
    seen: list[tuple[int, str]] = []

    def visit(position: int, name: str, run) -> object:
        seen.append((position, name))
        return run()

    x = torch.randn(3)
    with watched(module, ["inner", "outer"], visit):
        result = module(x)
    assert seen == [(0, "inner"), (1, "outer"), (2, "inner")]
    assert torch.equal(result, module(x))
    assert "forward" not in module.inner.__dict__


def test_a_forward_of_the_users_own_is_put_back() -> None:
    module = nn.Sequential(nn.ReLU())
    module[0].forward = torch.neg

    def stop(*_: object) -> object:
        raise KeyError

    with pytest.raises(KeyError), watched(module, ["0"], stop):
        module(torch.ones(1))
    assert module(torch.ones(1)) == -1
