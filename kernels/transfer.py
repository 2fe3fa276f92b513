"""Tensors of the host on a device."""

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A host's tensor on the device, without waiting for it: torch keeps pinned memory until it
    has been read."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
