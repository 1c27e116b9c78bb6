"""Measure the loading of batches from memory-mapped features, from disk and from memory.

The plain form reads the same files, makes one tensor per image and stacks them, as the original
data sets do. "cold" means that the pages of the file were dropped (posix_fadvise) before each
pass; other caches, such as that of a virtual machine's host, cannot be dropped. Seconds are wall
time here.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch.utils.data import DataLoader

from benchmarks.measure import Row
from itm.data.module import RegionDataModule
from itm.data.resident import look_up, read_table

SIZES = {"tiny": (12, 4, 32), "small": (300, 36, 2048), "paper": (1000, 36, 2048)}
BATCH = 128
DEVICE = torch.device("cpu")


def rows(size: str) -> Iterator[Row]:
    for dtype in (np.float32, np.float16):
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), SIZES[size], dtype)
            data = RegionDataModule(folder, batch_size=min(BATCH, SIZES[size][0]), min_count=1)
            data.setup()
            for state in ("cold", "warm"):
                yield compare_passes(data, np.dtype(dtype), state)
            yield resident(data, np.dtype(dtype))


def write(folder: Path, shape: tuple[int, int, int], dtype: type) -> None:
    rng = np.random.default_rng(0)
    for name in ("train", "dev", "test"):
        images = shape[0] if name == "train" else 2
        array = open_memmap(folder / f"{name}_ims.npy", "w+", dtype, (images, *shape[1:]))
        for row in array:
            row[:] = rng.random(shape[1:], np.float32)
        array.flush()
        lines = [" ".join(f"w{w}" for w in rng.integers(0, 1000, 11)) for _ in range(images)]
        (folder / f"{name}_caps.txt").write_text("\n".join(lines) + "\n")


def drop(path: Path) -> None:
    """Drop the cached pages of a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(batches: Callable, state: str, path: Path) -> tuple[float, float]:
    """Return the wall seconds of a pass, the better of two, and the sum over all regions."""
    seconds = float("inf")
    for _ in range(2):
        if state == "cold":
            drop(path)
        start, total = time.perf_counter(), 0.0
        for regions in batches():
            total += float(regions[:, 0].double().sum())
        seconds = min(seconds, time.perf_counter() - start)
    return seconds, total


class Plain(torch.utils.data.Dataset):
    """Read one image and its words at a time."""

    def __init__(self, reader):
        self.features, self.tokens = reader.split.features, reader.tokens

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, row):
        return torch.Tensor(np.array(self.features[row], np.float32)), self.tokens[row]


def stack(items):
    items.sort(key=lambda item: -len(item[1]))
    tokens = torch.zeros(len(items), len(items[0][1])).long()
    for row, (_, ids) in zip(tokens, items, strict=True):
        row[: len(ids)] = torch.Tensor(ids)
    return torch.stack([regions for regions, _ in items])


def compare_passes(data: RegionDataModule, dtype: np.dtype, state: str) -> Row:
    reader = data.reader("train")
    path = reader.split.folder / "train_ims.npy"
    loader = data.train_dataloader()
    ours, total = run(lambda: (pairs.images.regions for pairs in loader), state, path)
    plain = DataLoader(Plain(reader), data.batch_size, shuffle=True, collate_fn=stack)
    other, same = run(lambda: plain, state, path)
    count = reader.split.num_images
    return Row(
        f"{count} images, {dtype}, {state}",
        ours,
        against="image by image",
        plain=other,
        difference=abs(total - same) / abs(same),
        note=f"{count / ours:,.0f} images/s, {path.stat().st_size / ours / 1e9:.2f} GB/s",
    )


def resident(data: RegionDataModule, dtype: np.dtype) -> Row:
    """Read features from device memory (here: main memory)."""
    reader, table = data.reader("train"), read_table(data.split("train"), DEVICE, True)
    reader.features = False
    loader = data.train_dataloader()
    seconds, _ = run(
        lambda: (look_up(pairs, table).images.regions for pairs in loader), "warm", Path()
    )
    rate = f"{len(table) / seconds:,.0f} images/s"
    return Row(f"{len(table)} images, {dtype}, resident", seconds, note=rate)
