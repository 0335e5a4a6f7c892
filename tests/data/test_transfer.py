"""Copies to a device have the values of their source."""

import pytest
import torch

from nemo_desta.data.transfer import to_device


def test_on_the_host_nothing_is_copied() -> None:
    tensor = torch.arange(5)
    assert to_device(tensor, "cpu") is tensor and to_device(tensor, "meta").is_meta


@pytest.mark.gpu
def test_copies_to_a_gpu_are_whole_when_they_are_used() -> None:
    tensors = [torch.full((1000, 1000), float(i)) for i in range(8)]
    copies = [to_device(tensor, "cuda") for tensor in tensors]
    assert [float(copy.min()) for copy in copies] == [float(copy.max()) for copy in copies] == [float(i) for i in range(8)]
