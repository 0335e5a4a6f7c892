"""The optimiser's state of adapters, written whole, read back in parts: training goes on as if it had not stopped."""

import io

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from nemo_desta.parallel.lora import Half
from nemo_desta.parallel.optimizer_state import own_state, whole_state
from nemo_desta.parallel.topology import Topology

STEPS = 3
NAMES = ["a", "b"]
ALONE = Topology()


def fresh() -> tuple[list[nn.Parameter], list[Half], AdamW]:
    """One parameter of a connector, then two adapter matrices, the second with a row of filling."""
    parameters = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 4)), nn.Parameter(torch.ones(4, 2))]
    halves = [Half("a", parameters[1], 0, 0, 2, False), Half("b", parameters[2], 0, 0, 3, True)]
    with torch.no_grad():
        parameters[2][3] = 0
    return parameters, halves, AdamW(parameters, lr=0.1, fused=True)


def train(parameters: list[nn.Parameter], optimizer: AdamW, steps: range) -> None:
    for step in steps:
        for number, parameter in enumerate(parameters):
            values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(10 * step + number))
            parameter.grad = values * (parameter != 0)  # filling has no gradient
        optimizer.step()


@pytest.mark.parametrize("stop", [0, STEPS])
def test_training_goes_on_from_a_written_state_as_if_it_had_not_stopped(stop):
    parameters, halves, optimizer = fresh()
    train(parameters, optimizer, range(stop))
    file = io.BytesIO()
    torch.save(whole_state(optimizer.state_dict(), halves, NAMES, ALONE), file)  # pickle keeps shared what is shared
    file.seek(0)
    saved = torch.load(file)
    others, other_halves, other = fresh()
    for own, value in zip(others, parameters, strict=True):
        own.data.copy_(value)
    other.load_state_dict(own_state(saved, other_halves, NAMES, ALONE))
    for each, its in ((parameters, optimizer), (others, other)):
        train(each, its, range(stop, stop + STEPS))
    assert [float(other.state[parameter]["step"]) for parameter in others] == [stop + STEPS] * 3
    assert all(torch.equal(own, value) for own, value in zip(others, parameters, strict=True))
    assert [tuple(entry["exp_avg"].shape) for entry in saved["state"].values()] == ([(3,), (2, 4), (3, 2)] if stop else [])
