"""Would the tests notice? Breaks the library on purpose and runs the tests that should fail.

    python tests/mutants.py [NAME ...]

Each mutant is one replacement in a temporary copy of src/; it must make its tests fail. Ends with
code 1 when one survives, or when its text is no longer found exactly once. Minutes, so not part of
the default run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Mutant(NamedTuple):
    file: str
    old: str
    new: str
    tests: str  # arguments of pytest


MUTANTS = {
    "hinge turned round": Mutant(
        "losses/triplet.py", "margin + others - own", "margin - others + own",
        "tests/test_losses.py -k triplet",
    ),
    "positives count as negatives": Mutant(
        "losses/triplet.py", ".clamp_min(0).masked_fill(out, 0)", ".clamp_min(0)",
        "tests/test_losses.py -k triplet",
    ),
    "mean of negatives, not the hardest": Mutant(
        "losses/triplet.py", "return hinge.amax(1).sum()", "return hinge.mean(1).sum()",
        "tests/test_losses.py -k triplet",
    ),
    "one direction only": Mutant(
        "losses/triplet.py", "(scores.T[caption], excluded.T[caption]),", "",
        "tests/test_losses.py -k triplet",
    ),
    "negative margins cut off in SAM": Mutant(
        "losses/sam.py", "/ temperature).clamp_max(1)", "/ temperature).clamp(0, 1)",
        "tests/test_losses.py -k sam",
    ),
    "ties won": Mutant(
        "ranking.py", "total[at] += ((scores == bound) & before).sum(dim)", "pass",
        "tests/test_metrics.py",
    ),
    "ranks from one": Mutant(
        "metrics.py", "np.mean(_queries(ranks) < k)", "np.mean(_queries(ranks) <= k)",
        "tests/test_metrics.py",
    ),
    "captions and images swapped in the tie rule": Mutant(
        "ranking.py", "before = caption[c] < place[i, None] if dim else image[i, None] < own[c]",
        "before = caption[c] > place[i, None] if dim else image[i, None] > own[c]",
        "tests/test_metrics.py",
    ),
    "padding in the mean": Mutant(
        "layers.py", "weight.sum(dim).clamp_min(1)", "weight.shape[dim]",
        "tests/test_vsrn.py tests/test_scan.py tests/test_distributed.py -k 'not slow'",
    ),
    "padding in the softmax": Mutant(
        "layers.py", 'full(x).masked_fill(~mask, float("-inf"))', "full(x)",
        "tests/test_scan.py",
    ),
    "one word too many": Mutant(
        "layers.py", "torch.arange(size, device=device)[None, :] < ends[:, None]",
        "torch.arange(size, device=device)[None, :] <= ends[:, None]",
        "tests/test_scan.py tests/test_vsrn.py",
    ),
    "copies of an image are negatives": Mutant(
        "batch.py", "return index[:, None] == index[pairs.captions.image][None, :]",
        "return positives(pairs)", "tests/test_losses.py",
    ),
    "gradients of other processes lost": Mutant(
        "distributed.py", "dist.all_reduce(total)", "pass", "tests/test_distributed.py",
    ),
    "every epoch the same": Mutant(
        "sampler.py", "if epoch != self.epoch:", "if False:", "tests/test_sampler.py -k order",
    ),
    "images shared by processes": Mutant(
        "sampler.py", "yield self._with_neighbours(anchors[self.rank], batch)",
        "yield self._with_neighbours(anchors[0], batch)", "tests/test_data.py",
    ),
}  # fmt: skip


def tested(source: Path, tests: str) -> tuple[bool, str]:
    """Whether the tests pass with the library of a folder, and pytest's last line."""
    env = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1"}
    check = f"import itm; assert itm.__file__.startswith({str(source)!r}), itm.__file__"
    subprocess.run([sys.executable, "-c", check], env=env, check=True)
    command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider -m 'not slow' {tests}"
    done = subprocess.run(command, shell=True, cwd=ROOT, env=env, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    return done.returncode == 0, done.stdout.strip().splitlines()[-1]


def main(names: list[str]) -> int:
    survivors = []
    for name, mutant in MUTANTS.items():
        if names and name not in names:
            continue
        began = time.time()
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "src")
            shutil.copytree(ROOT / "src", copy, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copytree(ROOT / "conf", Path(folder, "conf"))
            file = copy / "itm" / mutant.file
            text = file.read_text()
            if text.count(mutant.old) != 1:
                print(f"STALE     {name}: {text.count(mutant.old)} places in {mutant.file}")
                survivors.append(name)
                continue
            file.write_text(text.replace(mutant.old, mutant.new))
            passed, line = tested(copy, mutant.tests)
        print(
            f"{'SURVIVED' if passed else 'killed':9} {name} ({time.time() - began:.0f} s): {line}"
        )
        if passed:
            survivors.append(name)
    print(f"{len(survivors)} of {len(names or MUTANTS)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
