"""Flat parameters: layout, state dicts with strict errors, places of tensors."""

import copy

import pytest
import torch
from torch import nn

from vitas_ds.models.flat import FlatModule, named_tensors, tensor_places


class Net(nn.Module):
    """A flat module with two parameters, and an ordinary layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = FlatModule()
        self.inner.add_flat("shared", {"bias": (3,), "fc.weight": (3, 2), "norm": (2,), "cube": (1, 2, 2)})
        self.inner.add_flat("private", {"q3_weight": (2, 2)})
        self.head = nn.Linear(3, 2)
        with torch.no_grad():
            for i, tensor in enumerate(named_tensors(self).values()):
                tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + 100 * i)


def test_tensors_with_weight_decay_come_first():
    inner = Net().inner
    assert {name: p.numel() for name, p in inner.named_parameters()} == {"shared": 15, "private": 4}
    offsets = {name: place.offset for name, place in inner.places().items()}
    assert offsets == {"fc.weight": 0, "cube": 6, "bias": 10, "norm": 13, "q3_weight": 0}


def test_places_cover_every_element_once():
    net = Net()
    seen = {p: torch.zeros(p.numel(), dtype=torch.int) for p in net.parameters()}
    for place in tensor_places(net).values():
        place.within(seen[place.parameter]).add_(1)
    assert all((count == 1).all() for count in seen.values())
    assert named_tensors(net)["head.weight"].data_ptr() == net.head.weight.data_ptr()


def test_state_dict_has_the_names_and_shapes_of_the_tensors():
    net, other = Net(), Net()
    state = net.state_dict()
    expected = {"inner.fc.weight": (3, 2), "inner.cube": (1, 2, 2), "inner.bias": (3,), "inner.norm": (2,),
                "inner.q3_weight": (2, 2), "head.weight": (2, 3), "head.bias": (2,)}  # fmt: skip
    assert {name: tuple(t.shape) for name, t in state.items()} == expected
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(state)
    assert all(torch.equal(t, named_tensors(other)[name]) for name, t in state.items())
    assert all(torch.equal(t, named_tensors(copy.deepcopy(net))[name]) for name, t in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("inner.cube"), 'Missing key(s) in state_dict: "inner.cube"'),
        (lambda s: s.update({"inner.more": torch.ones(1)}), 'Unexpected key(s) in state_dict: "inner.more"'),
        (lambda s: s.update({"inner.norm": torch.ones(3)}), "inner.norm has shape (3,), expected (2,)"),
    ],
)
def test_wrong_state_dicts_are_errors(change, message):
    state = Net().state_dict()
    change(state)
    with pytest.raises(RuntimeError) as error:
        Net().load_state_dict(state)
    assert message in str(error.value)


def test_assigning_tensors_is_an_error():
    with pytest.raises(RuntimeError, match="assign=True is not possible"):
        Net().load_state_dict(Net().state_dict(), assign=True)


def test_gradients_of_a_tensor_reach_its_range_only():
    net = Net()
    place = net.inner.places()["cube"]
    place.view().sum().backward()
    grad = net.inner.shared.grad
    assert grad.nonzero().flatten().tolist() == list(range(place.offset, place.offset + place.numel))
    assert net.inner.private.grad is None
