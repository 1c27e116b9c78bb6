"""The lines of a run: one per epoch, on the terminal and in train.log."""

import logging
import re

import pytest
from cli import run
from fast import FAST

from itm.training.progress import say

LINE = re.compile(
    r"epoch (\d)/3  loss ([\d.]+)  val rsum [\d.]+( \(best\))?  lr 2e-3  \d+:\d\d", re.M
)


@pytest.mark.parametrize("bar", ["false", "true"])
def test_a_line_per_epoch_on_the_terminal_and_in_the_log(bar, tmp_path):
    text = run(
        "train", *FAST, "model=two_branch_embedding", "max_epochs=3",
        f"trainer.enable_progress_bar={bar}", "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    log = (tmp_path / "run/train.log").read_text()
    for written in (text, log):
        found = LINE.findall(written)
        assert [epoch for epoch, *_ in found] == ["1", "2", "3"]
        assert found[0][2]  # the first validation is the best so far
        assert "best checkpoint:" in written and "M parameters" in written


def test_early_stopping_says_so(tmp_path):
    text = run(
        "train", *FAST, "model=two_branch_embedding", "max_epochs=5", "optimizer.lr=0",
        "callbacks=early_stopping", "callbacks.early_stopping.patience=1", "hydra.run.dir=run",
        "test=false", cwd=tmp_path,
    )  # fmt: skip
    said = r"stopped early after epoch 2: val/rsum has not improved on [\d.]+ in 1 validations"
    for written in (text, (tmp_path / "run/train.log").read_text()):
        assert re.search(said, written) and "epoch 3/5" not in written


def test_say_writes_to_files_once_and_prints_once(tmp_path, capsys):
    root, handler = logging.getLogger(), logging.FileHandler(tmp_path / "log")
    root.addHandler(handler)
    try:
        say("two\nlines")
    finally:
        root.removeHandler(handler)
        handler.close()
    assert capsys.readouterr().out == "two\nlines\n"
    assert (tmp_path / "log").read_text() == "two\nlines\n"
