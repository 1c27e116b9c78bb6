"""Norms and sums are computed without autocast, however their tensors are given."""

import pytest
import torch

from itm.layers.functional import full_precision


@pytest.mark.parametrize("by_name", [False, True])
def test_autocast_of_the_device_of_the_tensors_is_off(by_name, monkeypatch):
    devices, autocast = [], torch.autocast

    def watched(device, enabled):
        devices.append(device)
        return autocast("cpu", enabled=enabled)

    monkeypatch.setattr(torch, "autocast", watched)
    x = [torch.zeros(2, device="meta")]
    product = full_precision(lambda images: images[0] * 2)
    product(images=x) if by_name else product(x)
    assert devices == ["meta"]
