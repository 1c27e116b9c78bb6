"""Losses and metrics can be used without the packages that training needs."""

import subprocess
import sys

HEAVY = {
    "pytorch_lightning", "lightning", "hydra", "omegaconf", "transformers", "matplotlib",
}  # fmt: skip

USE = """
import sys
import torch
import itm.losses, itm.metrics

scores = torch.eye(4)
for loss in (itm.losses.Triplet(), itm.losses.Logistic(), itm.losses.Neighborhood()):
    loss(scores)
itm.losses.SAM(), itm.losses.MultiLabel()
assert itm.metrics.evaluate(scores, caption_image=range(4))["rsum"] == 600
print(*{name.partition(".")[0] for name in sys.modules})
"""


def test_losses_and_metrics_bring_neither_lightning_nor_hydra():
    done = subprocess.run([sys.executable, "-c", USE], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "torch" in loaded and not loaded & HEAVY
