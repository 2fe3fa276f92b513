"""Transfer of host tensors to a device."""

import torch


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a host tensor to a device asynchronously: torch keeps the pinned memory until it has
    been read."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
