"""Measure how long a checkpoint and a saved folder take to write, beside plain `torch.save`.

The plain form writes the file in place, so that a kill leaves half a file. Seconds are wall time,
the median of several rounds. Both forms bring the file to disk; without that, only the copy into
the system's cache would be measured.

    python -m benchmarks only=saving
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import save_file

from benchmarks.measure import Row
from itm.matcher.saved import save
from itm.models import SCAN
from itm.training.checkpoint_files import CheckpointFiles

SIZES = {"tiny": (100, 8, 16), "small": (2000, 300, 512), "paper": (8481, 300, 1024)}
ROUNDS = 7


def rows(size: str) -> Iterator[Row]:
    vocab_size, word_dim, embed_dim = SIZES[size]
    matcher = SCAN(vocab_size=vocab_size, img_dim=2048, word_dim=word_dim, embed_dim=embed_dim)
    weights = matcher.state_dict()
    moments = {name: (x.clone(), x.clone()) for name, x in weights.items()}  # as Adam has
    checkpoint = {"state_dict": weights, "optimizer_states": [moments]}
    files = CheckpointFiles()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        plain, ours, whole = compare(
            lambda: plainly(checkpoint, place / "plain.ckpt"),
            lambda: files.save_checkpoint(checkpoint, place / "ours.ckpt"),
            lambda: save(matcher, place / "saved"),
        )
        megabytes = (place / "ours.ckpt").stat().st_size / 1e6
        note = f"{megabytes:.0f} MB"
        yield Row("write a checkpoint", ours, None, "torch.save", plain, note=note)
        only, _ = compare(lambda: same_files(weights, place / "saved", place / "plain"), dict)
        yield Row("write a saved folder", whole, None, "the same files in place", only)


def plainly(content: object, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def same_files(weights: dict[str, torch.Tensor], saved: Path, plain: Path) -> None:
    """Write the files of a saved folder in place, without checksums."""
    plain.mkdir(exist_ok=True)
    for file in saved.iterdir():
        path = plain / file.name
        if file.suffix == ".safetensors":
            save_file(weights, path)
        else:
            path.write_bytes(file.read_bytes())
        with path.open("rb") as written:
            os.fsync(written.fileno())


def compare(*works: Callable[[], object]) -> list[float]:
    """Return the median seconds of each work; they take turns."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for found, work in zip(seconds, works, strict=True):
            start = time.perf_counter()
            work()
            found.append(time.perf_counter() - start)
    return [median(found) for found in seconds]
