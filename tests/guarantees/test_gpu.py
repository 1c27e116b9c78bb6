"""The GPU path on a pretended device: equal numbers, no waits, few launches.

`tests/helpers/simulated_gpu.py` says what the device notices. It changes torch for a whole process,
so the cases run in processes of their own, and only with the torch release that it was written for.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch

HELPERS = Path(__file__).parents[1] / "helpers"

pytestmark = pytest.mark.skipif(
    torch.__version__.split("+")[0] != "2.13.0" or torch.cuda.is_available(),
    reason="the simulated GPU needs a CPU build of torch 2.13.0",
)


@cache
def cases(*arguments):
    """Run `gpu_cases.py` and return its lines."""
    path = os.pathsep.join([str(HELPERS), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", HELPERS / "gpu_cases.py", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_a_step_of_every_model_and_its_scores_equal_the_cpu_and_never_wait():
    found = cases("steps")
    assert {"scan_t2i", "vsrn", "saf", "cvse", "casc", "vsepp", "vse_infty", "chan"} <= {
        case["model"] for case in found
    }
    assert [case for case in found if case["problems"]] == []
    assert [case for case in found if case["waits"]] == []


def test_bfloat16_keeps_small_gradients_of_grus():
    found = cases("small")
    assert len(found) == 2
    assert [case for case in found if not case["distance"] < 0.05] == []


@pytest.mark.slow
def test_every_model_loss_and_precision():
    found = cases("steps", "all")
    assert len(found) > 500
    assert [case for case in found if case["problems"]] == []
    assert [case for case in found if case["waits"]] == []


TRAINING = {
    "scan_t2i": 250, "scan_i2t": 250, "casc": 550, "sgr": 650, "saf": 610, "vsrn": 1000,
    "cvse": 600, "vsepp": 140, "vse_infty": 310, "pcmepp": 560, "chan": 250,
    "two_branch_embedding": 325, "two_branch_similarity": 230,
}  # fmt: skip
SCORING = {
    "scan_t2i": 200, "scan_i2t": 200, "casc": 560, "chan": 100, "sgr": 430, "saf": 370,
}  # fmt: skip


def test_kernels_of_a_training_step_and_of_scoring_stay_within_budget():
    """A step of batch 128, and 256 x 1,000 scores, at the papers' sizes."""
    found = {(case["part"], case["model"]): case for case in cases("launches")}
    budget = {("training", name): n for name, n in TRAINING.items()}
    budget |= {("scoring", name): n for name, n in SCORING.items()}
    assert {k: c["launches"] for k, c in found.items() if c["launches"] > budget[k]} == {}
    assert {k: c["waits"] for k, c in found.items() if k[0] == "training" and c["waits"]} == {}
    # Four chunks of captions: on a pretended GPU each block of scores is fetched by one copy.
    assert {c["waits"] for k, c in found.items() if k[0] == "scoring"} == {4}


def test_a_large_batch_makes_no_tensor_that_needs_indices_of_64_bits():
    found = cases("wide")
    assert len(found) == 3
    assert [case for case in found if case["values"] >= 1 << 31] == []


# What is said of each fault: an exception of the fault itself would be a problem, too.
NOTICED = (
    "expected all tensors on one device",
    "copy to the device",
    "expected all tensors on one device",
    "_local_scalar_dense",
    "by a mask",
    "not close",
)


@pytest.mark.parametrize(("defect", "said"), list(enumerate(NOTICED)))
def test_a_fault_made_on_purpose_is_noticed(defect, said):
    found = cases("defects")
    assert len(found) == len(NOTICED)
    assert said in json.dumps(found[defect]), found[defect]
