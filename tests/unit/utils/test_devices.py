"""Devices and the precision of products are chosen by name."""

from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode

import itm
from itm.batch import Encoded, to_device
from itm.utils.devices import block_values, find_device, free_memory, precision_context

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [(None, torch.float32), ("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)],
)
def test_a_product_has_the_type_of_the_precision(precision, dtype):
    x = torch.ones(2, 2)
    with precision_context(CPU, precision):
        assert (x @ x).dtype == dtype


def test_none_follows_what_surrounds_and_32_true_does_not():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with precision_context(CPU, None):
            assert (x @ x).dtype == torch.bfloat16
        with precision_context(CPU, "32-true"):
            assert (x @ x).dtype == torch.float32


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be '32-true', .* got 'bf16'"):
        precision_context(CPU, "bf16")


@pytest.mark.parametrize("gib", [80, 140, 288])
def test_intermediate_results_are_indexed_with_32_bits(gib, monkeypatch):
    memory = SimpleNamespace(total_memory=gib << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: memory)
    assert 1 << 29 < block_values(torch.device("cuda"), 1) <= 1 << 30


def test_a_device_that_is_not_there_is_refused_by_its_name(monkeypatch):
    assert find_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device=gpu is unknown: use cpu, cuda, cuda:1 or auto"):
        find_device("gpu")
    with pytest.raises(ValueError, match="device=cuda, but torch sees no GPU"):
        find_device("cuda")
    with pytest.raises(ValueError, match="^device=cuda"):  # not the fault of the file
        itm.load("no such folder", device="cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert find_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="device=cuda:2, but torch sees 2 GPUs, cuda:0 to cuda:1"):
        find_device("cuda:2")


def test_memory_that_torch_keeps_of_tensors_that_are_gone_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 60)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 25)
    assert free_memory(torch.device("cuda")) == 45
    assert free_memory(CPU) is None


class _Copies(TorchFunctionMode):
    """Records for each copy whether it may return before it is done."""

    def __init__(self):
        super().__init__()
        self.non_blocking = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.to:
            self.non_blocking.append((kwargs or {}).get("non_blocking", False))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("device", "asynchronous"), [("cpu", False), ("meta", True)])
def test_encodings_on_the_host_have_arrived(device, asynchronous):
    encoded = Encoded(torch.ones(2, 3), torch.ones(2, 4, 3), aux={"lengths": torch.ones(2)})
    with _Copies() as copies:
        to_device(encoded, torch.device(device))
    assert copies.non_blocking == [asynchronous] * 2
