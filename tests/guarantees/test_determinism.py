"""The same seed gives the same run, whatever else happens; and a run records how it was made."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from interruption import assert_same, checkpoint
from processes import Run

# Dropout, drawn negatives and batch norms.
ARGUMENTS = (
    "model=two_branch_embedding", "model.hidden_dim=16", "model.embed_dim=16", "model.word_dim=8",
    "model.dropout=0.5", "loss=sam", "loss.sampling=random", "trainer=fast",
    "trainer.log_every_n_steps=3",
)  # fmt: skip


def train(folder, name, *more, before=None):
    run = Run(*ARGUMENTS, f"hydra.run.dir={name}", *more, cwd=folder, name=name, before=before)
    run.done()
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    train(folder, "first")
    return folder


def note_determinism(path):
    from itm.training.callbacks import StepSeed

    hook = StepSeed.on_train_batch_start

    def hook_and_note(self, *arguments):
        Path(path).write_text(str(torch.are_deterministic_algorithms_enabled()))
        hook(self, *arguments)

    StepSeed.on_train_batch_start = hook_and_note


def disturb():
    """Random numbers that something else draws between the steps."""
    from itm.training.callbacks import StepSeed

    hook = StepSeed.on_train_batch_start

    def draw_and_hook(self, *arguments):
        torch.rand(7), np.random.rand(3)  # noqa: NPY002
        hook(self, *arguments)

    StepSeed.on_train_batch_start = draw_and_hook


@pytest.mark.parametrize(
    "name, more, before",
    [
        ("again", (), None),
        ("workers", ("data.workers=2",), None),
        ("disturbed", (), disturb),
    ],
)
def test_the_same_seed_is_the_same_run(folder, name, more, before):
    assert_same(train(folder, name, *more, before=before), folder / "first")


def test_another_seed_is_another_run(folder):
    other = train(folder, "other", "seed=1")
    ours, theirs = (checkpoint(x)["state_dict"] for x in (other, folder / "first"))
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)
    assert json.loads((other / "run.json").read_text())["seed"] == 1


def test_deterministic_is_honoured_and_changes_nothing_on_a_processor(folder):
    note = folder / "note.txt"
    run = train(folder, "strict", "deterministic=true", before=partial(note_determinism, note))
    assert note.read_text() == "True"
    assert_same(run, folder / "first")


def test_seed_versions_and_command_are_recorded_before_training_and_with_the_results(folder):
    for name in ("run.json", "results.json"):
        record = json.loads((folder / "first" / name).read_text())
        assert record["seed"] == 0 and "loss=sam" in record["command"]
        assert record["versions"]["torch"] == torch.__version__
        assert record["versions"]["numpy"] == np.__version__
        assert {"python", "pytorch-lightning", "itm-lightning"} <= record["versions"].keys()
