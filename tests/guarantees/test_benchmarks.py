"""The benchmarks run, and say so when numbers differ."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("benchmarks come with the repository only", allow_module_level=True)
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from benchmarks import gpu, gpu_clock, narrow, vse  # noqa: E402
from benchmarks.gpu_correctness import correctness  # noqa: E402
from benchmarks.measure import Products, Row, alone, compare, race  # noqa: E402
from benchmarks.scan import rows  # noqa: E402


def command(module, *arguments, fails=False):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=ROOT, env=environment,
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_one_table_and_a_file(tmp_path):
    out = tmp_path / "RESULTS.md"
    text = command("benchmarks", "size=tiny", "only=ranks", f"out={out}")
    assert "numpy loop" in text and "peak resident size" in text
    lines = out.read_text().splitlines()
    assert any(line.startswith("| ranks | ranks of 50 x 250") for line in lines)
    assert any("torch" in line for line in lines) and any("size=tiny" in line for line in lines)


def test_a_wrong_choice_says_what_there_is():
    assert "only= takes scan, chan" in command("benchmarks", "only=bert", fails=True)
    assert "size must be small or paper" in command("benchmarks", "size=huge", fails=True)
    assert "unknown repeats" in command("benchmarks", "repeats=3", fails=True)


def test_rows_of_scan_agree_with_both_plain_forms():
    found = list(rows("tiny"))
    assert {row.against for row in found} == {"lean", "original"}
    for row in found:
        assert row.difference < 1e-5 and row.seconds > 0 and row.product > 0
    json.dumps(found)


def test_rows_of_width_256_agree_in_both_precisions():
    found = {row.task: row for row in narrow.rows("tiny")}
    assert {task.split(",")[0] for task in found if "float32" in task} == {
        *(f"{name} training step" for name in (*narrow.KINDS, "CVSE")),
        *(f"{name} scores" for name in narrow.KINDS if name != "VSRN"),
    }
    for task, row in found.items():
        assert row.difference < (1e-3 if "float32" in task else 0.05), task
        assert row.seconds > 0 and row.plain > 0


def test_rows_of_vse_agree_with_the_plain_form():
    step, pooling, other = vse.rows("tiny")
    assert "% of the step" in pooling.note and step.product > 0
    assert all(row.difference < 1e-4 and row.plain > 0 for row in (step, pooling, other))


def test_other_numbers_are_an_error():
    runs = race({"itm": lambda: torch.ones(3), "plain": lambda: torch.tensor([1, 1, 1.1])}, 1)
    with pytest.raises(ValueError, match="ones: itm and plain differ by 0.09"):
        compare("ones", runs, 1e-5)
    nan = race({"itm": lambda: torch.ones(1), "plain": lambda: torch.tensor([torch.nan])}, 1)
    with pytest.raises(ValueError, match="differ by nan"):
        compare("nan", nan, 1e-5)


def test_memory_is_what_a_run_adds_at_its_peak():
    held = torch.ones(1 << 24)  # 64 MB that were there before
    run = alone(lambda: torch.ones(1 << 24).sum() + torch.ones(1 << 24).sum() + held[0])
    assert 60 << 20 < run.bytes < 110 << 20  # one after the other


def test_products_are_counted_and_nothing_else():
    a = torch.rand(300, 300)
    with Products() as none:
        (a + a).sum()
    with Products() as some:
        a @ a
    assert none.seconds == 0 < some.seconds


def test_targets():
    row = Row("x", 1.0, product=0.5, plain=6.0, bytes=10, plain_bytes=40)
    assert row.reached == {"seconds": 1, "bytes": 10, "speed": 6, "product": 2, "memory": 0.25}


# On a GPU -----------------------------------------------------------------------------------------

CPU, TINY = torch.device("cpu"), gpu.SIZES["tiny"]


def test_only_waits_are_counted_as_waits(monkeypatch):
    """Switching the mode on warns of itself."""
    text = "Synchronization debug mode is a prototype feature and does not yet detect all "
    monkeypatch.setattr(
        torch.cuda,
        "set_sync_debug_mode",
        lambda mode: warnings.warn(f"{text}synchronizing", stacklevel=1),
    )
    found = gpu_clock.waits(
        lambda: warnings.warn("called a synchronizing CUDA operation", stacklevel=1),
        torch.device("cuda"),
    )
    assert found == {"waits": 1}


def test_what_cannot_be_counted_loses_no_time(monkeypatch):
    monkeypatch.setattr(gpu, "kernels", lambda *_: 1 / 0)
    found = gpu.steps("VSE++", CPU, TINY, torch.float32, False)
    assert found["ms"] > 0 and "ZeroDivisionError" in found["not_counted"]


def test_the_numbers_of_every_matcher_are_compared():
    rows = dict(correctness(CPU, TINY))
    assert set(rows) == {name + part for name in gpu.matchers(TINY) for part in ("", ", scores")}
    assert len({type(make()) for make in gpu.matchers(TINY).values()}) == 10
    # The device is the CPU: float32 gives the same numbers, bfloat16 others.
    found = rows["VSE++"]() | rows["VSE++, scores"]()
    for name, value in found.items():
        assert (value == 0) == name.endswith("fp32_to_cpu"), (name, value)
    assert len(found) == 6


def test_one_image_of_a_batch_has_fewer_regions():
    for name, ragged in (("SCAN t2i", True), ("SGR", False)):
        pairs = gpu.batch_of(name, gpu.matchers(TINY)[name](), 4, TINY)
        assert (not pairs.images.mask.all()) == ragged


def test_the_start_of_a_training_is_not_in_its_speed(monkeypatch):
    times = iter([100, 107, 108, 120])  # the start, half of the steps, the last one, the end
    monkeypatch.setattr(gpu, "time", SimpleNamespace(monotonic=lambda: next(times)))
    found = dict(gpu.fits(CPU, TINY))["workers=0"]()
    assert found == {"seconds": 20, "steps_per_second": 1}


def test_a_part_that_does_not_exist_is_named_before_anything_is_measured(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "device=cpu", "only=ceilings,trainig"])
    with pytest.raises(SystemExit, match="only= takes ceilings, correctness"):
        gpu.main()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["benchmarks", "benchmarks.gpu"])
def test_everything_in_it_runs(module):
    more = ["device=cpu"] if module.endswith("gpu") else []
    text = command(module, "size=tiny", *more)
    assert ("loader" in text or "from_host" in text) and "failed" not in text
    assert '"error"' not in text
