"""Copies from the host to a GPU that do not make the host wait."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """``tensor`` on a device. To a GPU it goes through page-locked memory, so that the copy runs beside the GPU's work and the host goes on.

    PyTorch keeps the page-locked block until the copy has ended, and uses it again for the next one.
    """
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
