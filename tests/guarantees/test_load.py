"""Room that large data takes: features are read where they lie, scores fill one matrix.

python -m pytest -m slow tests/guarantees/test_load.py  # COCO 5K's size, a minute and 1 GB of disk
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.lib.format import open_memmap

from itm.data.module import RegionDataModule
from itm.matcher.saved import save
from itm.models import TwoBranchEmbedding
from itm.text.vocabulary import SPECIALS, Vocabulary

MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")


def own_memory(pid="self"):
    """Bytes that a process holds itself; pages of mapped files can be dropped at any time."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0  # it is ending


def test_features_larger_than_memory_are_read_row_by_row(tmp_path):
    """The file has holes in place of data: 1.5 times the machine's memory, at most 64 GB."""
    images, regions = 4000, 36
    width = min(int(1.5 * MEMORY), 64 << 30) // (4 * images * regions)
    for name in ("train", "dev", "test"):
        n = images if name == "train" else 2
        open_memmap(tmp_path / f"{name}_ims.npy", "w+", np.float32, (n, regions, width))
        (tmp_path / f"{name}_caps.txt").write_text("a dog\n" * n)
    data = RegionDataModule(tmp_path, batch_size=2, captions_per_image=1)
    data.setup()
    loader = iter(data.train_dataloader())
    block, held = next(loader).images.regions.nbytes, []
    for _ in range(40):
        pairs = next(loader)
        held.append(own_memory())
        assert pairs.images.regions.shape == (2, regions, width)
    assert max(held) - held[0] < 2 * block


@pytest.mark.slow
def test_evaluation_of_coco_5k_stays_in_its_budget(tmp_path, capsys):
    """5,000 images of 36 x 2048, 25,000 captions, an embedding network in its published sizes."""
    rng = np.random.default_rng(0)
    features = open_memmap(tmp_path / "testall_ims.npy", "w+", np.float16, (5000, 36, 2048))
    noise = rng.standard_normal((100, 36, 2048), np.float32)
    for start in range(0, 5000, 100):
        features[start : start + 100] = noise + rng.standard_normal((100, 1, 2048), np.float32)
    features.flush()
    words = [f"w{i}" for i in range(10_000)]
    lines = [" ".join(rng.choice(words, 10)) for _ in range(25_000)]
    (tmp_path / "testall_caps.txt").write_text("\n".join(lines) + "\n")
    torch.manual_seed(0)
    matcher = TwoBranchEmbedding(vocab_size=10_004)
    matcher.vocab = Vocabulary([*SPECIALS, *words])
    save(matcher, tmp_path / "saved")

    budget, began, peak, before = 256 << 20, time.time(), 0, 0
    command = [
        sys.executable, "-m", "itm.evaluate", "checkpoint=saved", "data=coco", "protocol=coco_5k",
        f"data.root={tmp_path}", f"memory_budget={budget}", "hydra.run.dir=out", "device=cpu",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment) as process:
        while process.poll() is None:
            try:
                peak = max(peak, own_memory(process.pid))
            except FileNotFoundError:
                break
            time.sleep(0.02)
    assert process.returncode == 0
    results = json.loads((tmp_path / "out/report.json").read_text())["results"]["saved"]
    assert 0 <= results["rsum"] <= 600
    program = [
        "-c",
        "import itm.models, itm.metrics, itm.runs.record; print(open('/proc/self/status').read())",
    ]  # noqa: E501
    status = subprocess.run([sys.executable, *program], capture_output=True, text=True, check=True)
    before = int(status.stdout.split("RssAnon:")[1].split()[0]) * 1024
    matrix, model = 5000 * 25_000 * 4, 4 * sum(p.numel() for p in matcher.parameters())
    with capsys.disabled():
        print(
            f"\npeak {peak >> 20} MB, of it packages {before >> 20}, matrix {matrix >> 20}, model "
            f"{model >> 20}, budget {budget >> 20}; {time.time() - began:.0f} s"
        )
    assert peak < before + matrix + 2 * model + budget + (200 << 20)  # encodings and captions
