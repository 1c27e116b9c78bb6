"""Runs of a report without training: in memory, and as folders."""

import json
from pathlib import Path

import numpy as np

from itm.metrics.ranking import RECALLS
from itm.runs.history import Run
from itm.runs.record import write_json

TEST = "test of /d, 4 images, full"
FACTS = {"split": "test", "root": "/d", "protocol": "full", "images": 4}


def made_run(folder, seed=0, rsum=300.0, validation=100.0, metrics=None, **more):
    """Make a run in memory; keywords with a dot or of a choice are settings, others fields."""
    fields = {k: more.pop(k) for k in [*more] if k in Run.__dataclass_fields__}
    settings = {"model": "scan", "loss": "triplet", "data": "scenes", "seed": seed, **more}
    recalls = dict.fromkeys(RECALLS, rsum / 6)
    fields.setdefault("ranks", ranks_of(seed))
    return Run(
        Path(folder), str(folder), settings, TEST, {**recalls, "rsum": rsum, **(metrics or {})},
        curves={}, validation=validation, **fields,
    )  # fmt: skip


def ranks_of(seed):
    """Draw the ranks of 4 images with 5 captions each."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(4), 5)
    return {"i2t": rng.integers(0, 9, 4), "t2i": rng.integers(0, 4, 20), "image": image}


def write_run(folder, seed=0, rsum=300.0, changes=(), **results):
    """Write the records of a run: run.json with its configuration, and results.json."""
    folder.mkdir(parents=True)
    config = {"config": {"seed": seed, "lr": 0.1}, "runtime": {"choices": {"model": "scan"}}}
    facts = {"command": f"itm.train seed={seed}", **({"changes": [*changes]} if changes else {})}
    write_json(folder / "run.json", {**facts, "configuration": config})
    found = {"test/rsum": rsum, "val/rsum": 100.0, **facts, **FACTS, **results}
    write_json(folder / "results.json", found)


def write_evaluation(folder, checkpoint, **metrics):
    """Write the record of an evaluation of one checkpoint."""
    folder.mkdir(parents=True)
    report = {**FACTS, "checkpoints": [str(checkpoint)], "results": {str(checkpoint): metrics}}
    (folder / "report.json").write_text(json.dumps(report))
