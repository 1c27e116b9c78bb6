"""Choose the captions of each batch by seed and epoch, independently of the number of processes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler


class Rows(list[int]):
    """The caption rows of a batch.

    Attributes:
        epoch: epoch of the training.
        start: place of the first row in the epoch, over all processes.
    """

    epoch: int = 0
    start: int = 0


class PairSampler(Sampler[list[int]]):
    """Draw batches of caption rows; each epoch is one shuffle of all captions.

    Every process draws the same order. Global batch j is the j-th run of `batch_size * processes`
    captions, and each process takes a slice of it: two processes with batch size 64 train on the
    same batches as one process with 128.

    Args:
        caption_image: (M,) image of each caption.
        batch_size: anchors per process and batch.
        seed: seed of the order.
        sentences: captions per anchor; above 1, other captions of the anchor's image join it
            (neighbourhood sampling: Wang et al., TPAMI 2019).
        drop_last: leave out the last incomplete batch.
        rank: number of this process.
        processes: number of processes.
    """

    def __init__(
        self,
        caption_image: np.ndarray,
        batch_size: int,
        seed: int = 0,
        sentences: int = 1,
        drop_last: bool = False,
        rank: int = 0,
        processes: int = 1,
    ):
        self.caption_image = caption_image
        self._by_image = np.argsort(caption_image, kind="stable")
        self._images = caption_image[self._by_image]
        self.batch_size = batch_size
        self.seed = seed
        self.sentences = sentences
        self.drop_last = drop_last
        self.rank = rank
        self.processes = processes
        self.epoch = 0
        self.start = 0  # batches of this epoch that were already trained on

    def set_epoch(self, epoch: int) -> None:
        """Choose the shuffle; Lightning calls this at the start of each epoch."""
        if epoch != self.epoch:
            self.epoch, self.start = epoch, 0

    @property
    def sampler(self) -> "PairSampler":
        """Return the sampler itself, because Lightning calls `batch_sampler.sampler.set_epoch`."""
        return self

    @property
    def global_batch(self) -> int:
        """Return the number of anchors per step, over all processes."""
        return self.batch_size * self.processes

    def __len__(self) -> int:
        whole, rest = divmod(len(self.caption_image), self.global_batch)
        # The last incomplete global batch is used only when every process gets a share of it.
        return whole + (not self.drop_last and rest >= self.processes)

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.caption_image))
        size = self.global_batch
        start, self.start = self.start, 0
        for batch in range(start, len(self)):
            anchors = np.array_split(order[batch * size : (batch + 1) * size], self.processes)
            own, before = self._with_neighbours(anchors, batch)
            rows = Rows(own)
            rows.epoch, rows.start = self.epoch, batch * size * self.sentences + before
            yield rows

    def _with_neighbours(self, anchors: list[np.ndarray], batch: int) -> tuple[list[int], int]:
        """Return `sentences` captions per anchor of this process, sorted, anchor by anchor.

        The neighbours are drawn as by one process, so those of the processes before come first.
        An image with fewer captions gives fewer, so the rows of these processes are counted, too.
        """
        if self.sentences == 1:
            return anchors[self.rank].tolist(), sum(map(len, anchors[: self.rank]))
        rng = np.random.default_rng((self.seed, self.epoch, batch, 0))
        rows, before = list[int](), 0
        for rank, own in enumerate(anchors[: self.rank + 1]):
            for anchor in own:
                others = self._siblings(anchor)
                wanted = min(self.sentences - 1, len(others))
                drawn = rng.choice(others, wanted, replace=False)
                if rank == self.rank:
                    rows += sorted([int(anchor), *drawn.tolist()])
                else:
                    before += 1 + wanted
        return rows, before

    def _siblings(self, caption: int) -> np.ndarray:
        """Find the other captions of a caption's image; with noise they are not consecutive."""
        image = self.caption_image[caption]
        first, last = np.searchsorted(self._images, [image, image + 1])
        own = self._by_image[first:last]
        return own[own != caption]


class FixedSampler(PairSampler):
    """Draw the same batches in every epoch, for `Trainer(overfit_batches=...)`."""

    def set_epoch(self, epoch: int) -> None:
        """Keep the shuffle of the first epoch; after a whole epoch, begin again."""
        if self.start >= len(self):
            self.start = 0


class PairLoader(DataLoader):
    """Load the batches of a `PairSampler`; checkpoints store its place in the epoch.

    Only batches that the trainer received count; workers may have read further ahead. Reading
    starts with the first batch of an epoch, after Lightning has set epoch and place.
    """

    position = 0  # batches of the epoch that the trainer received

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.position = self._pairs.start
        for batch in super().__iter__():
            self.position += 1
            yield batch

    @property
    def _pairs(self) -> PairSampler:
        assert isinstance(self.batch_sampler, PairSampler)
        return self.batch_sampler

    def state_dict(self) -> dict[str, int]:
        """Return the epoch, the batches trained on in it, and the anchors per batch."""
        sampler = self._pairs
        return {"epoch": sampler.epoch, "batch": self.position, "size": sampler.global_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the batches that were trained on, in the same order of captions.

        With another batch size or number of processes, round the place down to a whole batch.
        """
        self._pairs.epoch = state["epoch"]
        self._pairs.start = self.position = (
            state["batch"] * state["size"] // self._pairs.global_batch
        )
