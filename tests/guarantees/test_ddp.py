"""Two processes on this machine against one: numbers, stopping, dying, resuming, sweeps."""

import csv
import json
import os
import re
import signal
import socket
import sys
import time
from functools import partial

import pytest
import torch
from cli import run
from interruption import checkpoint, signal_at_batch
from processes import Run

# SGD: Adam makes steps of one size out of gradients that are zero but for rounding.
ARGUMENTS = (
    "model=scan", "model.embed_dim=16", "model.word_dim=8", "loss.gather=true",
    "data.root.images=[65,21,21]", "trainer.max_epochs=1", "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
    "callbacks.last.every_n_train_steps=2", "optimizer._target_=torch.optim.SGD",
    "optimizer.lr=0.002",
)  # fmt: skip


def be_rank(rank, port, then=None):
    """What a launcher such as torchrun tells each process."""
    os.environ |= {
        "LOCAL_RANK": str(rank), "NODE_RANK": "0", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    if then is not None:
        then()


def be_node(node, port):
    """What a user tells a training started by hand on each of two machines."""
    os.environ |= {"NODE_RANK": str(node), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def pair(folder, name, *more, then=(None, None)):
    """Two processes that train together."""
    port = free_port()
    return [
        Run(
            *ARGUMENTS, "trainer=ddp", f"hydra.run.dir={name}", "resume=true", *more, cwd=folder,
            name=f"{name}_{rank}", before=partial(be_rank, rank, port, then[rank]),
        )
        for rank in (0, 1)
    ]  # fmt: skip


def metrics(run):
    with (run / "csv/metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a run of one process, 10 steps of 32 pairs and one of 5."""
    folder = tmp_path_factory.mktemp("runs")
    Run(*ARGUMENTS, "data.batch_size=32", "hydra.run.dir=one", cwd=folder).done()
    return folder


def test_two_processes_are_one_with_their_batches_joined(folder):
    """21 images and 105 captions in validation and test: one process has one more."""
    first, second = pair(folder, "two", "data.batch_size=16")
    first.done(), second.done()
    ours, theirs = metrics(folder / "two"), metrics(folder / "one")
    assert len(ours) == len(theirs) == 11 + 3
    for a, b in zip(ours, theirs, strict=True):
        assert {name for name in a if a[name]} == {name for name in b if b[name]}
        for name in a:
            if a[name]:
                assert float(a[name]) == pytest.approx(float(b[name]), rel=1e-5), name
    ours, theirs = (
        checkpoint(folder / "two")["state_dict"],
        checkpoint(folder / "one")["state_dict"],
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_signal_to_one_stops_both_and_one_goes_on_alone(folder):
    """With twice the batch it continues at the same caption."""
    stop = partial(signal_at_batch, signal.SIGTERM, 2)
    first, second = pair(folder, "stop", "data.batch_size=16", then=(None, stop))
    assert (first.wait(), second.wait()) == (128 + signal.SIGTERM, 0)
    assert checkpoint(folder / "stop")["global_step"] == 5  # processes ask each other now and then
    assert "step 5 is saved; continue with" in first.text
    Run(
        *ARGUMENTS, "hydra.run.dir=stop", "resume=true", "data.batch_size=32", cwd=folder, name="on"
    ).done()
    last = checkpoint(folder / "stop")
    assert (last["epoch"], last["global_step"]) == (0, 11)
    for name, x in checkpoint(folder / "one")["state_dict"].items():
        torch.testing.assert_close(last["state_dict"][name], x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dies", [0, 1])
def test_a_dying_process_ends_the_other_with_a_message(folder, dies):
    name = f"dies{dies}"
    then = [None, None]
    then[dies] = partial(signal_at_batch, signal.SIGKILL, 3)
    runs = pair(folder, name, "data.batch_size=16", then=then)
    assert runs[dies].wait() == -signal.SIGKILL
    other = runs[1 - dies]
    assert other.wait(60) == 1
    assert "another one failed first" in other.text and "RuntimeError" in other.text


def hang(batch):
    from itm.training.callbacks import StepSeed

    def sleep(self, trainer, *arguments):
        if trainer.fit_loop.total_batch_idx == batch:
            time.sleep(1000)

    StepSeed.on_train_batch_start = sleep


def test_a_hanging_process_ends_the_other_after_the_timeout(folder):
    timeout = ("trainer.strategy.timeout.minutes=0", "+trainer.strategy.timeout.seconds=4")
    first, second = pair(
        folder, "hang", *timeout, "data.batch_size=16", then=(None, partial(hang, 3))
    )
    assert first.wait(60) == 1
    assert re.search("[Tt]imed out", first.text)
    os.kill(second.pid, signal.SIGKILL)
    second.wait()


def test_processes_with_different_configurations_do_not_start(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runs = [
        Run(
            *ARGUMENTS, "trainer=ddp", "hydra.run.dir=differ", f"loss.margin=0.{rank}", cwd=folder,
            name=f"differ_{rank}", before=partial(be_rank, rank, port),
        )
        for rank in (0, 1)
    ]  # fmt: skip
    assert [r.wait() for r in runs] == [1, 1]
    assert "error: process 1 and process 0 have different configurations" in runs[1].text
    assert "margin: 0.1 / margin: 0.0" in runs[1].text


def test_one_of_two_nodes_started_by_hand_speaks(tmp_path):
    """Also before the trainer tells them apart: data.protocol is checked earlier."""
    port, told = free_port(), "data.protocol=coco_1k has no effect"
    options = ("data.root.images=[13,5,5]", "data.protocol=coco_1k", "data.limit=4")
    nodes = [
        Run(
            *ARGUMENTS, *options, "trainer=ddp", "trainer.devices=1", "trainer.num_nodes=2",
            "hydra.run.dir=run", cwd=tmp_path, name=f"node_{node}",
            before=partial(be_node, node, port),
        )
        for node in (0, 1)
    ]  # fmt: skip
    texts = [node.done() for node in nodes]
    assert [text.count(told) for text in texts] == [1, 0]
    assert (tmp_path / "run/train.log").read_text().count(told) == 1


def test_a_sweep_of_jobs_with_two_processes_each(tmp_path):
    """Launched by Lightning, as on the command line."""
    text = run(
        "train", "-m", "trainer=ddp", *ARGUMENTS, "data.root.images=[13,5,5]",
        "loss.margin=0.1,0.3", "data.batch_size=16", "hydra.sweep.dir=sweep", cwd=tmp_path,
    )  # fmt: skip
    assert "2 jobs" in text
    for job, margin in ((0, 0.1), (1, 0.3)):
        results = json.loads((tmp_path / f"sweep/{job}/results.json").read_text())
        assert f"loss.margin={margin}" in results["command"] and "test/rsum" in results
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep"]


RATE = """
from pathlib import Path

from pytorch_lightning import Callback


class Rate(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        weights = sum(float(p.double().sum()) for p in pl_module.parameters())
        with Path(f"rate_{trainer.global_rank}.txt").open("a") as file:
            file.write(f"{rate} {weights!r}\\n")
"""


def add_path(folder):
    sys.path.insert(0, folder)


def test_a_schedule_that_watches_the_training_loss_is_the_same_in_all_processes(folder):
    """Each process has its own loss: they step by the mean, or their weights would part."""
    (folder / "rates.py").write_text(RATE)
    rates = [
        "scheduler=plateau", "scheduler.monitor=train/loss", "scheduler.mode=min",
        "scheduler.patience=0", "scheduler.threshold=0.02", "trainer.max_epochs=6",
        "data.batch_size=16", "loss.gather=false", "+callbacks.mine._target_=rates.Rate",
        "optimizer.lr=0.05",
    ]  # fmt: skip
    add = partial(add_path, str(folder))
    first, second = pair(folder, "plateau", *rates, then=(add, add))
    first.done(), second.done()
    ours, theirs = ((folder / f"rate_{rank}.txt").read_text() for rank in (0, 1))
    assert ours == theirs and len({line.split()[0] for line in ours.splitlines()}) > 1


FAIL = """
from pytorch_lightning import Callback


class Fail(Callback):
    def on_train_batch_start(self, *arguments, **options):
        raise ValueError("this batch is wrong")
"""


def test_the_reason_of_a_failed_job_of_two_processes_is_kept(tmp_path):
    """The sweep ends there, because the processes wait for each other."""
    (tmp_path / "fails.py").write_text(FAIL)
    fine = "pytorch_lightning.callbacks.LearningRateMonitor"
    text = run(
        "train", "-m", "trainer=ddp", *ARGUMENTS, "data.root.images=[13,5,5]",
        f"+callbacks.mine._target_={fine},fails.Fail,{fine}", "data.batch_size=16",
        "hydra.sweep.dir=sweep", cwd=tmp_path, fails=True,
        PYTHONPATH=os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])),
    )  # fmt: skip
    table = (tmp_path / "sweep/summary.md").read_text().splitlines()
    assert [row[:5] for row in table[2:]] == ["| 0 |", "| 1 |"], text
    assert "failed: this batch is wrong" in table[3]
    assert text.count("jobs in sweep") == 1 and text.count("job 0 finished") == 1
    assert not (tmp_path / "sweep/2").exists()
