"""Memory, files and threads of a run stay flat over minutes of epochs.

    SOAK_MINUTES=124 python -m pytest -m slow tests/guarantees/soak.py  # default 3, for two runs
    python -m itm.train trainer.max_epochs=-1 trainer.max_time=00:12:00:00     # soak by hand

Not collected by a plain `pytest`: the name does not start with test_.
"""

import csv
import os
import time
from pathlib import Path

import numpy as np
import pytest
from processes import Run

MINUTES = float(os.environ.get("SOAK_MINUTES", 3))
PAGE = os.sysconf("SC_PAGE_SIZE") / 2**20


def census(pid):
    """Private memory in MB, open files, threads and number of a process and its loader workers.

    None when it has ended.
    """
    try:
        children = [
            child
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        return np.sum([census_of(process) for process in (pid, *children)], 0)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return None


def census_of(pid):
    proc = Path(f"/proc/{pid}")
    _, resident, shared, *_ = map(int, (proc / "statm").read_text().split())
    threads = len(list((proc / "task").iterdir()))
    return (resident - shared) * PAGE, len(list((proc / "fd").iterdir())), threads, 1


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_a_long_run_stays_flat(tmp_path, workers, capsys):
    """Many epochs of training, validation, checkpoints and logging."""
    seconds = int(MINUTES * 60 / 2)  # two runs
    run = Run(
        "model=two_branch_embedding", "loss=sam", "trainer=fast", "model.embed_dim=16",
        "model.word_dim=16", "model.hidden_dim=16", "trainer.max_epochs=-1",
        f"trainer.max_time='00:00:{seconds // 60:02}:{seconds % 60:02}'",
        f"data.workers={workers}", "callbacks.last.every_n_train_steps=7",
        "trainer.log_every_n_steps=2", "hydra.run.dir=run", cwd=tmp_path,
    )  # fmt: skip
    samples = []
    while (sample := census(run.pid)) is not None and run.running:
        samples.append(sample)
        time.sleep(0.5)
    run.done()
    with (tmp_path / "run/csv/metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-2]
    samples = np.array(samples)
    usual = np.median(samples[:, 3])  # at the start and the end there are fewer workers
    samples = samples[samples[:, 3] == usual, :3]
    third = len(samples) // 3  # the first is for caches that fill
    parts = [samples[i * third : (i + 1) * third - 5] for i in (1, 2)]
    # Batches that travel from a worker hold a few files open, so those are counted at their least.
    before, after = (np.array([np.median(part[:, 0]), *part[:, 1:].min(0)]) for part in parts)
    with capsys.disabled():
        print(
            f"\n{workers} workers, step {last['step']}, epoch {last['epoch']}: MB, files, threads",
            f"{np.round(before, 1)} -> {np.round(after, 1)}; memory over time",
            [round(float(x[0])) for x in samples[:: max(len(samples) // 20, 1)]],
        )
    assert int(last["epoch"]) > 2
    assert after[0] < before[0] * 1.02 + 1
    assert (after[1:] <= before[1:]).all()
