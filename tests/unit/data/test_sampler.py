"""The order of training, its place in an epoch, and what Lightning makes of both."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from itm.data.sampler import FixedSampler, PairLoader, PairSampler


class Reader(pl.LightningModule):
    """Remembers the batches it was given; may fail in one of them."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.fails_at = [], fails_at

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.fails_at:
            raise InterruptedError
        self.seen.append(batch)
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def loader(workers=0, captions=23, batch_size=4, kind=PairSampler, **options):
    sampler = kind(np.arange(captions) // 5, batch_size, seed=3, **options)
    return PairLoader(
        range(captions), batch_sampler=sampler, collate_fn=list, num_workers=workers,
        persistent_workers=workers > 0,
    )  # fmt: skip


def fit(reader, loader, folder, checkpoint=None):
    saved = pl.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=3, logger=False, enable_progress_bar=False, callbacks=[saved],
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(reader, loader, ckpt_path=checkpoint)


def test_every_epoch_of_a_run_has_all_captions_in_its_own_order(tmp_path):
    reader = Reader()
    fit(reader, loader(), tmp_path)
    epochs = [reader.seen[i : i + 6] for i in (0, 6, 12)]
    orders = [[row for batch in epoch for row in batch] for epoch in epochs]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    for epoch, order in enumerate(orders):
        np.testing.assert_array_equal(order, np.random.default_rng((3, epoch)).permutation(23))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [4, 6, 9])
def test_a_run_goes_on_behind_the_last_batch(tmp_path, workers, step):
    """In the first epoch, at its end, in the second; workers have read ahead by then."""
    whole, first, second = Reader(), Reader(fails_at=step), Reader()
    fit(whole, loader(), tmp_path / "whole")
    with pytest.raises(InterruptedError):
        fit(first, loader(workers), tmp_path / "part")
    fit(second, loader(workers), tmp_path / "part", tmp_path / f"part/step={step}.ckpt")
    assert first.seen + second.seen == whole.seen


def test_the_state_counts_batches_that_were_handed_out():
    reading = loader(workers=2)
    batches = iter(reading)
    next(batches), next(batches)
    assert reading.state_dict() == {"epoch": 0, "batch": 2, "size": 4}
    other = loader()
    other.load_state_dict(reading.state_dict())
    assert list(other) == list(batches)
    assert len(list(other)) == 6  # only the epoch that was broken off is shorter


def test_another_batch_size_or_number_of_processes_goes_on_at_the_same_caption():
    whole = [row for batch in loader() for row in batch]
    halves = [loader(batch_size=4, processes=2, rank=rank) for rank in (0, 1)]
    for half in halves:
        half.load_state_dict({"epoch": 0, "batch": 4, "size": 4})  # 16 captions = 2 x 8
    rest = [row for pair in zip(*halves, strict=True) for batch in pair for row in batch]
    assert rest == whole[16:]


def test_the_other_captions_of_an_image_need_not_be_consecutive():
    image = np.random.default_rng(0).permutation(np.arange(20) // 5)
    sampler = PairSampler(image, 4, seed=3, sentences=5)
    for batch in sampler:
        for anchor in np.split(np.array(batch), range(5, len(batch), 5)):
            assert sorted(anchor) == np.flatnonzero(image == image[anchor[0]]).tolist()


@pytest.mark.parametrize("processes", [2, 3])
def test_the_neighbours_of_several_processes_are_those_of_one(processes):
    """Global batches of 12 anchors with two neighbours each; the last one is uneven."""
    image = np.arange(50) // 5
    whole = list(PairSampler(image, 12, seed=3, sentences=3))
    parts = [
        list(PairSampler(image, 12 // processes, 3, 3, rank=rank, processes=processes))
        for rank in range(processes)
    ]
    for batch, rows in enumerate(whole[: len(parts[0])]):
        assert [row for part in parts for row in part[batch]] == rows


def test_places_in_the_epoch_do_not_depend_on_the_number_of_processes():
    """Augmentation draws by place; images with fewer captions than `sentences` give fewer rows."""
    image = np.array([0, 1, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6])

    def places(processes):
        samplers = (
            PairSampler(image, 8 // processes, sentences=3, rank=rank, processes=processes)
            for rank in range(processes)
        )
        batches = [rows for sampler in samplers for rows in sampler]
        return sorted((rows.start + k, row) for rows in batches for k, row in enumerate(rows))

    assert places(1) == places(2) == places(4)


@pytest.mark.parametrize("step", [4, 6])
def test_a_run_on_the_same_batches_goes_on_behind_the_last_one(tmp_path, step):
    """At the end of an epoch, the next one had no batch."""
    whole, first, second = Reader(), Reader(fails_at=step), Reader()
    fit(whole, loader(kind=FixedSampler), tmp_path / "whole")
    with pytest.raises(InterruptedError):
        fit(first, loader(kind=FixedSampler), tmp_path / "part")
    fit(second, loader(kind=FixedSampler), tmp_path / "part", tmp_path / f"part/step={step}.ckpt")
    assert first.seen + second.seen == whole.seen and whole.seen[:6] == whole.seen[6:12]
