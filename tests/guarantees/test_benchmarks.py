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
from benchmarks import gpu, gpu_clock, gpu_inputs, gpu_steps, narrow, vse  # noqa: E402
from benchmarks.gpu_correctness import correctness  # noqa: E402
from benchmarks.gpu_scoring import scoring  # noqa: E402
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
    monkeypatch.setattr(gpu_steps, "waits", lambda *_: 1 / 0)
    found = gpu_steps.steps("VSE++", CPU, TINY, torch.float32, False)
    assert found["ms"] > 0 and "ZeroDivisionError" in found["not_counted"]


def test_the_profiler_runs_last_because_launches_are_slower_after_it(monkeypatch):
    counted = []
    monkeypatch.setattr(gpu_steps, "kernels", lambda step: counted.append(step) or {"kernels": 1})
    for part in ("training", "scoring"):
        measures = dict(gpu.PARTS[part][0](CPU, TINY))
        next(iter(measures.values()))()
    assert not counted and list(gpu.PARTS)[-1] == "counting"
    rows = list(gpu_steps.counting(SimpleNamespace(type="cuda"), TINY))
    assert [name for name, _ in rows] == [f"{name} bf16" for name in gpu_inputs.matchers(TINY)]


def test_kernels_are_those_of_one_step_after_the_first_ones(monkeypatch):
    """Operations of the CPU stand for kernels."""
    activity = SimpleNamespace(CUDA=torch.profiler.ProfilerActivity.CPU)
    monkeypatch.setattr(torch.profiler, "ProfilerActivity", activity)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    real = torch.profiler.profile.events
    event = SimpleNamespace(device_type=SimpleNamespace(name="CUDA"), device_time=500)
    monkeypatch.setattr(
        torch.profiler.profile,
        "events",
        lambda self: [event for x in real(self) if x.name == "aten::cos"],
    )
    steps = []

    def step():
        steps.append(torch.ones(3).cos().cos())

    assert gpu_clock.kernels(step) == {"kernels": 2, "kernel_ms": 1.0}
    assert len(steps) == 3


def test_scores_of_all_sizes_of_blocks_and_of_the_loop_are_compared():
    found = {name: measure() for name, measure in scoring(CPU, TINY)}
    compared = {name: row["gap"] for name, row in found.items() if "gap" in row}
    assert len(found) == 31 and len(compared) == 16
    assert compared.keys() == {name for name in found if not name.endswith(" 16 GiB")}
    assert max(compared.values()) < 1e-5, compared


def test_lines_are_short_and_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("OUT", str(tmp_path))
    gpu.say("training", "SGR", ms=12.3456789, waits=0)
    line = '{"part":"training","name":"SGR","ms":12.35,"waits":0}\n'
    assert capsys.readouterr().out == line == (tmp_path / "gpu.jsonl").read_text()


def test_inputs_that_cannot_be_made_end_their_part_alone(capsys):
    def rows():
        yield "first", lambda: {"ms": 1.0}
        raise RuntimeError("out of memory")

    gpu.run("scoring", rows(), 10)
    first, error = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["ms"] == 1 and error["error"] == "RuntimeError: out of memory"


def test_products_in_float32_do_not_follow_the_environment(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "device=cpu", "size=tiny", "only=from_host"])
    seen = []
    monkeypatch.setattr(gpu, "run", lambda *_: seen.append(torch.get_float32_matmul_precision()))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        gpu.main()
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen == ["highest"]


def test_the_numbers_of_every_matcher_are_compared():
    rows = dict(correctness(CPU, TINY))
    assert set(rows) == {
        name + part for name in gpu_inputs.matchers(TINY) for part in ("", ", scores")
    }
    assert len({type(make()) for make in gpu_inputs.matchers(TINY).values()}) == 10
    # The device is the CPU: float32 gives the same numbers, bfloat16 others.
    found = rows["VSE++"]() | rows["VSE++, scores"]()
    for name, value in found.items():
        assert (value == 0) == name.endswith("fp32_to_cpu"), (name, value)
    assert len(found) == 6


def test_one_image_of_a_batch_has_fewer_regions():
    for name, ragged in (("SCAN t2i", True), ("SGR", False)):
        pairs = gpu_inputs.batch_of(name, gpu_inputs.matchers(TINY)[name](), 4, TINY)
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
