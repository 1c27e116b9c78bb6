"""Make loaders: training batches in the order of a sampler; images and captions to evaluate."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from itm.data.collate import Reader
from itm.data.options import Loading
from itm.data.sampler import PairLoader, PairSampler
from itm.utils.distributed import rank_and_size


class WholeBatches(Dataset):
    """Pass the rows of a batch from the sampler to the collate function unchanged.

    A loader would otherwise copy them to a list, which does not know its place in the epoch.
    """

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> int:
        return row

    def __getitems__(self, rows: list[int]) -> list[int]:
        """Return the batch itself; torch calls this method if a data set has it."""
        return rows


def training_loader(reader: Reader, sampler: PairSampler, options: Loading) -> PairLoader:
    """Load batches of `Pairs`, resumable in the middle of an epoch."""
    return PairLoader(
        WholeBatches(len(sampler.caption_image)),
        batch_sampler=sampler,
        collate_fn=reader.pairs if options.sentences == 1 else reader.groups,
        **_workers(options),
    )


def evaluation_loaders(
    reader: Reader, options: Loading, limit: int | float | None = None
) -> list[DataLoader]:
    """Make two loaders, one over images and one over captions.

    Each process gets its own share. Captions are sorted by length to reduce padding, unless the
    trainer's limit, a number or share of batches, may leave out some: then the first batches belong
    to the first images.
    """
    rank, processes = rank_and_size()
    images = np.arange(reader.split.num_images)[rank::processes]
    captions = np.arange(len(reader.lengths))
    if limit is None or (isinstance(limit, float) and limit >= 1):
        captions = np.argsort(reader.lengths, kind="stable")
    captions = captions[rank::processes]
    return [
        DataLoader(
            range(total),  # type: ignore[arg-type]
            batch_sampler=list(_blocks(rows, options.eval_batch_size)),
            collate_fn=collate,
            **_workers(options),
        )
        for total, rows, collate in (
            (reader.split.num_images, images, reader.images),
            (len(reader.lengths), captions, reader.captions),
        )
    ]


def _workers(options: Loading) -> dict[str, Any]:
    return {
        "num_workers": options.workers,
        "pin_memory": options.pin_memory,
        "persistent_workers": options.workers > 0,
    }


def _blocks(rows: np.ndarray, size: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size].tolist()
