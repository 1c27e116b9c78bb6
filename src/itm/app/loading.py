"""Decide how features reach a GPU: kept in its memory, or read by loader processes."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from itm.app.arguments import key_of
from itm.app.quoting import as_typed

if TYPE_CHECKING:
    from itm.data.module import RegionDataModule

MOST_WORKERS = 8  # loader processes; more do not read a memory-mapped file faster
OPTIONS = ("resident", "workers", "pin_memory")


def choose_loading(
    free: int,
    values: int,
    stored: int,
    precision: str,
    cores: int,
    given: Collection[str] = (),
) -> dict[str, Any]:
    """Choose options of `data` for training on a GPU.

    Features stay on the GPU if those of all splits fill at most half of its free memory: in
    bfloat16 under bf16-mixed, see `itm.data.resident`, else as they are stored.
    Otherwise loader processes read them. Batches are page-locked in both cases.

    Args:
        free: free bytes of the GPU.
        values: number of feature values of all splits.
        stored: bytes of a value in the files.
        precision: of the trainer.
        cores: processor cores of each training process.
        given: options that the user set, which stay as they are.

    Returns:
        Values for some of "resident", "workers" and "pin_memory".
    """
    resident: bool | str = "bfloat16" if precision.startswith("bf16") else True
    size = values * (2 if resident == "bfloat16" else stored)
    chosen: dict[str, Any] = {"pin_memory": True}
    if "resident" not in given and size <= free // 2:
        chosen["resident"] = resident
    else:
        chosen["workers"] = max(1, min(MOST_WORKERS, cores - 1))
    return {name: value for name, value in chosen.items() if name not in given}


def available_cores() -> int:
    """Count the cores that this process may use: SLURM and containers give it some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS, Windows


def cores_of_process(trainer: Any) -> int:
    """Count the cores that one of several training processes can use.

    Processes on one machine share its cores equally. SLURM starts a task for each process and may
    give it cores of its own, which are not shared.
    """
    from pytorch_lightning.plugins.environments import SLURMEnvironment  # late: loads torch

    cores = available_cores()
    own = os.environ.get("SLURM_CPUS_PER_TASK")
    environment = getattr(trainer.strategy, "cluster_environment", None)  # only of several devices
    if own and isinstance(environment, SLURMEnvironment):  # torchrun in a task shares its cores
        return min(int(own), cores)
    return cores // max(1, trainer.num_devices)


def apply_loading(data: RegionDataModule, trainer: Any, overrides: Sequence[str]) -> str | None:
    """Set the loading options of a data module for the device of a trainer.

    Args:
        data: before any of its loaders is made.
        trainer: Lightning's.
        overrides: options of the command line.

    Returns:
        A line that says what was chosen; None if the trainer uses no GPU, or if all is given.
    """
    from itm.utils.devices import free_memory  # late: loads torch, which `--help` does not need

    free = free_memory(trainer.strategy.root_device)
    if free is None:
        return None
    given = [x for x in OPTIONS if any(key_of(option) == f"data.{x}" for option in overrides)]
    if "resident" in given and data.resident and "workers" not in given:
        given.append("workers")  # nothing is left to read
    splits = [data.split(stage) for stage in ("train", "val", "test")]
    values = sum(split.num_images * split.regions * split.width for split in splits)
    stored = max(split.features.dtype.itemsize for split in splits)
    cores = cores_of_process(trainer)
    chosen = choose_loading(free, values, stored, str(trainer.precision), cores, given)
    for name, value in chosen.items():
        setattr(data, name, value)
    if not chosen:
        return None
    gigabytes = f"{values * stored / 1e9:.1f} GB of features, {free / 1e9:.1f} GB free on the GPU"
    options = " ".join(f"data.{name}={as_typed(value)}" for name, value in chosen.items())
    return f"chosen for the GPU: {options} ({gigabytes})"
