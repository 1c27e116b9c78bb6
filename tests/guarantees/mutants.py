"""Would the tests notice? Breaks the library on purpose and runs the tests that should fail.

    python tests/mutants.py [NAME ...]

Each mutant is one replacement in a temporary copy of src/; it must make its tests fail. Ends with
code 1 when one survives, or when its text is no longer found exactly once. Minutes, so not part of
the default run.
"""

import os
import shlex
import shutil
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402

ROOT = Path(__file__).parents[2]


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
        "tests/test_two_branch.py -k padding",
    ),
    "padding in the softmax": Mutant(
        "layers.py", 'full(x).masked_fill(~mask, float("-inf"))', "full(x)",
        "tests/test_numbers.py -k layers",
    ),
    "padding in the batch norm": Mutant(
        "reasoning.py", "own_mean = x.masked_fill(~real, 0).sum", "own_mean = x.sum",
        "tests/test_vsrn.py -k under_a_mask",
    ),
    "one word too many": Mutant(
        "layers.py", "torch.arange(size, device=device)[None, :] < ends[:, None]",
        "torch.arange(size, device=device)[None, :] <= ends[:, None]",
        "tests/test_vsrn.py -k padding",
    ),
    "copies of an image are negatives": Mutant(
        "batch.py", "return index[:, None] == index[pairs.captions.image][None, :]",
        "return positives(pairs)", "tests/test_losses.py",
    ),
    "gradients of other processes lost": Mutant(
        "distributed.py", "dist.all_reduce(total)", "pass", "tests/test_distributed.py",
    ),
    "images of the second process taken for the first's": Mutant(
        "distributed.py", "here.image + start[rank_and_size()[0]]", "here.image",
        "tests/test_distributed.py",
    ),
    "padding of a gather kept": Mutant(
        "distributed.py", "part[: sizes[0]] for part", "part for part",
        "tests/test_distributed.py",
    ),
    "every epoch the same": Mutant(
        "sampler.py", "if epoch != self.epoch:", "if False:", "tests/test_sampler.py -k order",
    ),
    "images shared by processes": Mutant(
        "sampler.py", "yield self._with_neighbours(anchors[self.rank], batch)",
        "yield self._with_neighbours(anchors[0], batch)", "tests/test_data.py",
    ),
    "captions of one length counted backwards": Mutant(
        "packing.py", "key=lengths.__getitem__, reverse=True)", "key=lengths.__getitem__)[::-1]",
        "tests/test_sgraf.py -k loop_with_gradients",
    ),
    "opposed vectors taken for zero": Mutant(
        "attended.py", "(EPS * least) ** 2", "(EPS * 1e3) ** 2",
        "tests/test_scan.py -k points_away",
    ),
    "options of other weights": Mutant(
        "published.py", "options[theirs] != arguments[ours]", "False",
        "tests/test_published.py -k missing_or_wrong",
    ),
}  # fmt: skip


def tested(source: Path, tests: str, output: Path) -> bool:
    """Whether the tests pass with the library of a folder, in a process of their own.

    The process is forked from this one, which has imported the slow packages once and never the
    library.
    """
    process = os.fork()
    if process == 0:
        file = os.open(output, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ["PYTHONPATH"] = str(source)  # of processes that tests start
        sys.path[:0] = [str(source), str(ROOT / "tests")]
        os.chdir(ROOT)
        import itm

        assert itm.__file__.startswith(str(source)), itm.__file__
        arguments = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", *shlex.split(tests)]
        code = int(pytest.main(arguments))
        sys.stdout.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code not in (0, 1):
        raise RuntimeError(f"exit code {code}\n{output.read_text()}")
    return code == 0


def main(names: list[str]) -> int:
    survivors = []
    for slow in ("torch", "pytorch_lightning", "hydra", "scipy.sparse", "hypothesis", "nltk"):
        import_module(slow)
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
            output = Path(folder, "output.txt")
            passed = tested(copy, mutant.tests, output)
            line = output.read_text().strip().splitlines()[-1]
        print(
            f"{'SURVIVED' if passed else 'killed':9} {name} ({time.time() - began:.0f} s): {line}",
            flush=True,
        )
        if passed:
            survivors.append(name)
    print(f"{len(survivors)} of {len(names or MUTANTS)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
