import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from toy import MeanMatcher

from itm.batch import Encoded
from itm.data.module import RegionDataModule
from itm.losses import SAM, Logistic, MultiLabel, Triplet
from itm.metrics.retrieval import evaluate
from itm.training.callbacks import (
    EarlyStopping,
    Health,
    SameConfiguration,
    StepSeed,
    chance_rsum,
    plateau,
)

PATIENCE = 12


WORDS = ["a", "red", "dog", "runs", "far", "cat"]


def make_data(root, related):
    """Captions of four words; the first is the image's kind, or all are drawn at random."""
    rng = np.random.default_rng(0)
    for name, images in (("train", 30), ("dev", 40)):
        kind = rng.integers(6, size=images)
        features = np.eye(6)[kind][:, None] + 0.1 * rng.normal(size=(images, 3, 6))
        np.save(root / f"{name}_ims.npy", features.astype(np.float32))
        words = rng.integers(6, size=(images * 5, 4))
        if related:
            words[:] = kind.repeat(5)[:, None]
        lines = [" ".join(WORDS[i] for i in row) for row in words]
        (root / f"{name}_caps.txt").write_text("\n".join(lines) + "\n")
    module = RegionDataModule(root, batch_size=10, min_count=1, seed=0)
    module.setup()
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Captions that say nothing about the images."""
    return make_data(tmp_path_factory.mktemp("data"), related=False)


def matcher(data, loss, cls=MeanMatcher, lr=1e-3):
    torch.manual_seed(0)
    made = cls(len(data.vocabulary), 6, 8, loss=loss, optimizer=lambda p: torch.optim.Adam(p, lr))
    made.vocab = data.vocabulary
    return made


def fit(made, data, callback, epochs=1, **options):
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[callback], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, log_every_n_steps=4, **options,
    )  # fmt: skip
    trainer.fit(made, datamodule=data)
    return trainer


class Poisoned(MeanMatcher):
    """One loss term becomes NaN in the sixth batch, which makes all weights NaN."""

    def extra_losses(self, pairs, images, captions):
        bad = self.global_step == 5
        return {"words": self.image.weight.sum() * (float("nan") if bad else 0.0)}


def test_a_loss_that_is_not_finite_names_step_term_and_remedy(data):
    made = matcher(data, Triplet(), Poisoned)
    with pytest.raises(ValueError) as error:
        fit(made, data, Health())
    # Found at the eighth step; the terms of the first bad step are named, not all that followed.
    assert "not finite at step 6: words=nan, total=nan;" in str(error.value)
    assert "lower optimizer.lr" in str(error.value) and "ranking" not in str(error.value)


class Collapsed(MeanMatcher):
    """All images have the same encoding."""

    def encode_images(self, images):
        encoded = super().encode_images(images)
        one = nn.functional.normalize(torch.ones_like(encoded.vector), dim=1)
        return Encoded(one + 0 * encoded.vector, encoded.parts, encoded.mask)

    encode_captions = lambda self, captions: Encoded(  # noqa: E731
        nn.functional.normalize(torch.ones(len(captions.lengths), 8), dim=1)
        + 0 * self.text(captions)[0].sum()
    )


@pytest.mark.parametrize(
    "loss, sign",
    [
        (Triplet(), "the ranking loss stays at 0.4 per pair"),  # 2 x 0.2
        (Triplet(reduction="mean", negatives="top"), "the ranking loss stays at 0.2"),
        (Triplet(negatives="all"), "val/rsum is .*, by chance it would be"),
        (Logistic(), "val/rsum is .*, by chance it would be"),
    ],
    ids=["hardest", "mean of top", "all", "logistic"],
)
def test_a_collapse_is_told_once_with_its_remedy(data, loss, sign):
    with pytest.warns(UserWarning, match=f"{sign}.*lower optimizer.lr") as warned:
        fit(matcher(data, loss, Collapsed), data, Health(PATIENCE), epochs=3)
    texts = [str(w.message) for w in warned if "collapsed" in str(w.message)]
    assert len(texts) == 1 and ("loss.warmup_steps" in texts[0]) == isinstance(loss, Triplet)


def test_a_collapse_that_training_falls_into_by_itself(data):
    """The hardest negatives and a high learning rate on captions without meaning."""
    with pytest.warns(UserWarning, match="collapsed"):
        fit(matcher(data, Triplet(), lr=0.05), data, Health(PATIENCE), epochs=20)


@pytest.mark.parametrize("loss", [Triplet(), Triplet(negatives="all")])
def test_a_run_that_learns_is_left_alone(tmp_path, loss):
    data = make_data(tmp_path, related=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*collapsed.*")
        trainer = fit(matcher(data, loss, lr=0.02), data, Health(PATIENCE), epochs=4)
    assert trainer.callback_metrics["val/rsum"] > 2 * chance_rsum(40, 200)


def test_the_plateau_is_the_loss_of_equal_scores():
    scores = torch.full((7, 7), 0.3)
    for loss in (
        Triplet(margin=0.3),
        Triplet(reduction="mean"),
        Triplet(negatives="top", top_k=3),
        SAM(margin=0.1),
        MultiLabel(),
    ):
        ranking = getattr(loss, "ranking", loss)
        pairs = 7 if loss.is_summed else 1
        assert ranking(scores).item() == pytest.approx(plateau(loss) * pairs)
    assert plateau(Triplet(negatives="all")) is None
    assert (
        plateau(SAM(alone=True)) is None and plateau(Logistic()) is None and plateau(None) is None
    )


def test_chance_is_the_mean_of_random_scores():
    rng = np.random.default_rng(0)
    values = [evaluate(rng.random((40, 200)))["rsum"] for _ in range(200)]
    # Standard error of the mean below 1; drawing captions with replacement is 1 % off.
    assert chance_rsum(40, 200) == pytest.approx(np.mean(values), rel=0.04)


def test_losses_are_looked_at_together(data, monkeypatch):
    """Between looks nothing is read from the device."""
    looks = []
    look = Health._look
    monkeypatch.setattr(
        Health, "_look", lambda self, m: (looks.append(len(self._recent)), look(self, m))
    )
    fit(matcher(data, Triplet()), data, Health())
    assert looks == [4, 4, 4]  # 15 batches


def test_random_numbers_depend_on_seed_process_and_batch_only():
    def draw(seed, rank, batch, before):
        torch.rand(before)
        loop = type("Loop", (), {"total_batch_idx": batch})
        trainer = type("Trainer", (), {"global_rank": rank, "fit_loop": loop})
        StepSeed(seed).on_train_batch_start(trainer, None, None, 0)
        return torch.rand(4).tolist()

    assert draw(0, 0, 5, 1) == draw(0, 0, 5, 77)
    others = [draw(*key, 0) for key in ((0, 0, 5), (1, 0, 5), (0, 1, 5), (0, 0, 6))]
    assert len({tuple(numbers) for numbers in others}) == 4


def test_processes_with_another_configuration_stop_all_of_them():
    class Strategy:
        def broadcast(self, text):
            return "optimizer:\n  lr: 0.1\nseed: 0"

        def reduce_boolean_decision(self, same):
            return False

    trainer = type("Trainer", (), {"world_size": 2, "strategy": Strategy(), "global_rank": 1})
    with pytest.raises(ValueError, match=r"lr: 0.2 / lr: 0.1.*hydra.sweeper.sampler.seed"):
        SameConfiguration("optimizer:\n  lr: 0.2\nseed: 0").setup(trainer, None, "fit")


def test_the_patience_of_a_resumed_run_is_that_of_its_options():
    """Lightning restores the patience, so that a new one had no effect."""
    before, now = EarlyStopping("val/rsum", patience=2), EarlyStopping("val/rsum", patience=9)
    before.wait_count = 1
    now.load_state_dict(before.state_dict())
    assert (now.wait_count, now.patience) == (1, 9)
    before.wait_count = before.stopped_epoch = 2
    now.load_state_dict(before.state_dict())
    assert now.wait_count == 2 and now.stopped_epoch == 0  # goes on, and has not stopped
    assert now.state_key == pl.callbacks.EarlyStopping("val/rsum").state_key


def test_a_patience_is_at_least_one_step():
    with pytest.raises(ValueError, match="patience must be at least 1, got 0"):
        Health(patience=0)


def test_the_plateau_of_a_gathered_loss_counts_the_pairs_of_all_processes():
    made = SimpleNamespace(loss=Triplet(gather=True), objective=Triplet(gather=True))
    trainer = SimpleNamespace(global_step=1, log_every_n_steps=1)
    terms = {"ranking": torch.tensor(8 * 0.4)}  # of 8 pairs, 4 of them in this process
    health = Health(patience=1)
    batch = SimpleNamespace(captions=SimpleNamespace(lengths=(3,) * 4))
    with pytest.warns(UserWarning, match="collapsed.*0.4 per pair"):
        outputs = {"terms": terms, "pairs": torch.tensor(8.0)}
        health.on_train_batch_end(trainer, made, outputs, batch, 0)
