"""How features reach a GPU is chosen from sizes alone, and options of the user stay."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pytorch_lightning.plugins.environments import (
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from itm.app.loading import apply_loading, choose_loading

COCO = 123_287 * 36 * 2048  # values


@pytest.mark.parametrize(
    ("free", "precision", "expected"),
    [
        (80e9, "bf16-mixed", {"pin_memory": True, "resident": "bfloat16"}),
        (80e9, "32-true", {"pin_memory": True, "resident": True}),  # 36 GB, as stored
        (40e9, "bf16-mixed", {"pin_memory": True, "resident": "bfloat16"}),
        (40e9, "32-true", {"pin_memory": True, "workers": 7}),
        (16e9, "bf16-mixed", {"pin_memory": True, "workers": 7}),
    ],
)
def test_features_stay_on_a_gpu_with_twice_their_size_free(free, precision, expected):
    assert choose_loading(int(free), COCO, 4, precision, 8) == expected


def test_what_the_user_set_stays():
    small, large = int(16e9), int(80e9)
    assert choose_loading(large, COCO, 4, "bf16-mixed", 8, ["resident"]) == {
        "pin_memory": True,
        "workers": 7,
    }
    assert choose_loading(small, COCO, 4, "bf16-mixed", 8, ["workers", "pin_memory"]) == {}
    assert choose_loading(small, COCO, 4, "bf16-mixed", 1)["workers"] == 1
    assert choose_loading(small, COCO, 4, "bf16-mixed", 64)["workers"] == 8


def stub(free, monkeypatch):
    """Pretend data of 1,000 values a split and a trainer on a GPU."""
    monkeypatch.setattr("itm.utils.devices.free_memory", lambda device: free)
    split = SimpleNamespace(num_images=10, regions=10, width=10, features=np.empty(0, np.float32))
    data = SimpleNamespace(resident=False, workers=0, pin_memory=False, split=lambda stage: split)
    device = torch.device("cuda", 0) if free else torch.device("cpu")
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=device), num_devices=1, precision="bf16-mixed"
    )
    return data, trainer


def test_the_choice_is_set_and_said(monkeypatch):
    data, trainer = stub(100_000, monkeypatch)
    said = apply_loading(data, trainer, ["trainer=gpu", "data.root=x"])
    assert said is not None and "data.resident=bfloat16" in said
    assert (data.resident, data.workers, data.pin_memory) == ("bfloat16", 0, True)
    data, trainer = stub(6_000, monkeypatch)
    said = apply_loading(data, trainer, ["+data.workers=3"])
    assert said is not None and "data.pin_memory=true" in said and "workers" not in said
    assert (data.resident, data.workers, data.pin_memory) == (False, 0, True)


def test_cores_that_another_process_has_are_not_counted(monkeypatch):
    """SLURM and containers give a process some of the cores of a machine."""
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {3, 5, 7}, raising=False)
    data, trainer = stub(6_000, monkeypatch)
    apply_loading(data, trainer, [])
    assert data.workers == 2


@pytest.mark.parametrize(
    ("environment", "cores", "own", "workers"),
    [
        (LightningEnvironment, 8, None, 1),  # four processes share the cores
        (SLURMEnvironment, 8, "8", 7),  # each task has its own
        (SLURMEnvironment, 64, "8", 7),  # they are counted, but not bound
        (SLURMEnvironment, 1, "8", 1),  # sbatch was given them, srun was not
        (SLURMEnvironment, 8, None, 1),
        (TorchElasticEnvironment, 32, "32", 7),  # one task starts four processes
    ],
)
def test_processes_share_cores_except_those_of_a_task(
    environment, cores, own, workers, monkeypatch
):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    if own is not None:
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", own)
    data, trainer = stub(6_000, monkeypatch)
    trainer.num_devices, trainer.strategy.cluster_environment = 4, environment()
    apply_loading(data, trainer, [])
    assert data.workers == workers


def test_a_processor_keeps_the_options(monkeypatch):
    data, trainer = stub(None, monkeypatch)
    assert apply_loading(data, trainer, []) is None
    assert (data.resident, data.workers, data.pin_memory) == (False, 0, False)
