"""Would the tests notice? Break the library on purpose and run the tests that should fail.

    python tests/guarantees/mutants.py [NAME ...]

A mutant replaces one function of the library by a version with a defect, in a temporary copy of
src/; its tests must then fail. A defect is a function below: it receives the original and returns
the broken version, which changes what goes in or what comes out. So a mutant depends on the name
and the arguments of a function, not on how the function is written. The script ends with code 1
when a mutant survives or when the name of its function is gone (STALE). It takes minutes and is
therefore not part of the default run.
"""

import ast
import inspect
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"

import pytest  # noqa: E402

ROOT = Path(__file__).parents[2]
NOT_A_FINDING = re.compile(
    r"^(E +)?((ModuleNotFound|Import|Syntax)Error:|\S+ProcessExitedException:)", re.MULTILINE
)
PYTEST = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow",
          "-W", "ignore::pytest.PytestAssertRewriteWarning"]  # fmt: skip


# Defects. Each is copied to the end of the module that it breaks, so it brings its own imports.

# Losses


def hinge_turned_round(triplet):
    return lambda scores, *options, **named: triplet(-scores, *options, **named)


def positives_count_as_negatives(anchors):
    def broken(*arguments):
        found = anchors(*arguments)
        return found._replace(positive=found.positive.new_zeros(found.positive.shape))

    return broken


def mean_of_negatives_not_the_hardest(triplet):
    from inspect import signature

    def broken(*arguments, **named):
        call = signature(triplet).bind(*arguments, **named)
        call.apply_defaults()
        if call.arguments["negatives"] == "hardest":
            call.arguments.update(negatives="top", top_k=10**6)
        return triplet(*call.args, **call.kwargs)

    return broken


def one_direction_only(triplet):
    """In a matrix of one row no column has a negative."""
    from itm.losses.shared import anchors

    def broken(scores, positive=None, ignore=None, *options, **named):
        positive = anchors(scores, positive).positive
        total = 0 * scores.sum()
        for i in range(len(scores)):
            row = slice(i, i + 1)
            out = None if ignore is None else ignore[row]
            total = total + triplet(scores[row], positive[row], out, *options, **named)
        return total

    return broken


def negative_margins_cut_off_in_sam(sam):
    """One anchor at a time, with no candidate more relevant than the anchor itself."""
    from inspect import signature

    import torch

    from itm.losses.shared import anchors

    def broken(*arguments, **named):
        call = signature(sam).bind(*arguments, **named)
        call.apply_defaults()
        scores, relevance, positive, ignore, *options = call.args
        if call.arguments["sampling"] != "all":
            return sam(*arguments, **named)
        image, caption, matching = anchors(scores, positive)
        out = matching if ignore is None else matching | ignore
        total = 0 * scores.sum()
        for i, c in zip(image.tolist(), caption.tolist(), strict=True):
            row = scores[i], relevance[i], out[i], c
            column = scores[:, c], relevance[:, c], out[:, c], i
            for s, r, excluded, place in (row, column):
                own = torch.arange(len(s)) == place
                cut = torch.minimum(r, r[place])
                one = s[None], cut[None], own[None], (excluded & ~own)[None]
                total = total + sam(*one, *options)
        return total

    return broken


def copies_of_an_image_are_negatives(same_image):
    import torch

    def broken(pairs):
        rows = torch.arange(len(pairs.images.index))
        return rows[:, None] == pairs.captions.image[None, :]

    return broken


# Metrics


def ties_won(ranks):
    import numpy as np

    from itm.metrics.ranking import caption_rows, to_numpy

    def broken(scores, caption_image=None):
        if scores.ndim == 2:
            own = caption_rows(caption_image, *scores.shape)
            scores = np.array(to_numpy(scores))
            at = own, np.arange(len(own))
            if np.issubdtype(scores.dtype, np.floating):
                scores[at] = np.nextafter(scores[at], np.array(np.inf, scores.dtype))
        return ranks(scores, caption_image)

    return broken


def ranks_from_one(recall):
    return lambda ranks, k: recall(ranks, k + 1)


def later_of_two_equal_candidates_first(ranks):
    import numpy as np

    from itm.metrics.ranking import caption_rows, to_numpy

    def broken(scores, caption_image=None):
        if scores.ndim != 2:
            return ranks(scores, caption_image)
        own = caption_rows(caption_image, *scores.shape)
        turned = np.ascontiguousarray(to_numpy(scores)[::-1, ::-1])
        i2t, t2i = ranks(turned, len(turned) - 1 - own[::-1])
        return i2t[::-1].copy(), t2i[::-1].copy()

    return broken


# Masks


def padding_in_the_mean(masked_mean):
    import torch

    def broken(x, mask, dim=1):
        return masked_mean(x * mask.unsqueeze(-1), torch.ones_like(mask), dim)

    return broken


def padding_in_the_softmax(masked_softmax):
    import torch

    def broken(x, mask, dim=-1):
        return masked_softmax(x, torch.ones_like(mask), dim).masked_fill(~mask, 0)

    return broken


def padding_in_the_batch_norm(masked_batch_norm):
    import torch

    def broken(norm, x, mask, biased=False, rows=None):
        y = masked_batch_norm(norm, x, torch.ones_like(mask), biased)
        return y.masked_fill(~mask[..., None], 0)

    return broken


def one_word_too_many(length_mask):
    return lambda lengths, size, device: length_mask(tuple(n + 1 for n in lengths), size, device)


# Several processes


def gradients_of_other_processes_lost(gather_rows):
    import torch

    from itm.utils.distributed import rank_and_size

    def broken(x):
        rows = gather_rows(x.detach()).clone()
        counts = gather_rows(torch.tensor([len(x)], device=x.device))
        start = int(counts[: rank_and_size()[0]].sum())
        rows[(slice(start, start + len(x)), *map(slice, x.shape[1:]))] = x
        return rows

    return broken


def images_of_the_second_process_taken_for_the_firsts(gather_batch):
    from itm.utils.distributed import gather_rows

    def broken(pairs, images, captions):
        image = gather_rows(pairs.captions.image)
        pairs, images, captions = gather_batch(pairs, images, captions)
        return pairs._replace(captions=pairs.captions._replace(image=image)), images, captions

    return broken


def padding_of_a_gather_kept(gather_rows):
    import torch

    def broken(x):
        most = int(gather_rows(torch.tensor([len(x)], device=x.device)).max())
        return gather_rows(torch.cat([x, x.new_zeros(most - len(x), *x.shape[1:])]))

    return broken


# Order


def every_epoch_the_same(set_epoch):
    return lambda sampler, epoch: None


def images_shared_by_processes(batches):
    def broken(sampler):
        rank, sampler.rank = sampler.rank, 0
        try:
            yield from batches(sampler)
        finally:
            sampler.rank = rank

    return broken


def captions_of_one_length_counted_backwards(group_by_length):
    def broken(lengths, slack=0.0):
        groups = group_by_length(lengths, slack)
        return [sorted(rows[::-1], key=lambda row: -lengths[row]) for rows in groups]

    return broken


# Published weights


def opposed_vectors_taken_for_zero(attended_cosine):
    return lambda p, block, least=1.0: attended_cosine(p, block, 1e3)


def options_of_other_weights(check_options):
    return lambda *arguments: None


class Mutant(NamedTuple):
    defect: Callable
    name: str  # what the defect replaces
    tests: str  # arguments of pytest


MUTANTS = [
    Mutant(hinge_turned_round, "itm.losses.triplet.triplet", "tests/unit/losses -k triplet"),
    Mutant(positives_count_as_negatives, "itm.losses.shared.anchors",
           "tests/unit/losses -k triplet"),
    Mutant(mean_of_negatives_not_the_hardest, "itm.losses.triplet.triplet",
           "tests/unit/losses -k triplet"),
    Mutant(one_direction_only, "itm.losses.triplet.triplet", "tests/unit/losses -k triplet"),
    Mutant(negative_margins_cut_off_in_sam, "itm.losses.sam.sam", "tests/unit/losses -k sam"),
    Mutant(copies_of_an_image_are_negatives, "itm.batch.same_image", "tests/unit/losses"),
    Mutant(ties_won, "itm.metrics.ranking.ranks", "tests/unit/metrics/test_metrics.py"),
    Mutant(ranks_from_one, "itm.metrics.retrieval.recall", "tests/unit/metrics/test_metrics.py"),
    Mutant(later_of_two_equal_candidates_first, "itm.metrics.ranking.ranks",
           "tests/unit/metrics/test_metrics.py"),
    Mutant(padding_in_the_mean, "itm.layers.functional.masked_mean",
           "tests/unit/models/test_two_branch.py -k padding"),
    Mutant(padding_in_the_softmax, "itm.layers.functional.masked_softmax",
           "tests/guarantees/test_numbers.py -k layers"),
    Mutant(padding_in_the_batch_norm, "itm.layers.batch_norm.masked_batch_norm",
           "tests/unit/models/test_vsrn.py -k under_a_mask"),
    Mutant(one_word_too_many, "itm.layers.functional.length_mask",
           "tests/unit/models/test_vsrn.py -k padding"),
    Mutant(gradients_of_other_processes_lost, "itm.utils.distributed.gather_rows",
           "tests/guarantees/test_distributed.py"),
    Mutant(images_of_the_second_process_taken_for_the_firsts, "itm.matcher.gather.gather_batch",
           "tests/guarantees/test_distributed.py"),
    Mutant(padding_of_a_gather_kept, "itm.utils.distributed.gather_rows",
           "tests/guarantees/test_distributed.py"),
    Mutant(every_epoch_the_same, "itm.data.sampler.PairSampler.set_epoch",
           "tests/unit/data/test_sampler.py -k order"),
    Mutant(images_shared_by_processes, "itm.data.sampler.PairSampler.__iter__",
           "tests/unit/data/test_data.py"),
    Mutant(captions_of_one_length_counted_backwards, "itm.layers.packing.group_by_length",
           "tests/unit/models/test_sgraf.py -k loop_with_gradients"),
    Mutant(opposed_vectors_taken_for_zero, "itm.layers.attention_math.attended_cosine",
           "tests/unit/models/test_scan.py -k points_away"),
    Mutant(options_of_other_weights, "itm.published.convert._check_options",
           "tests/unit/published/test_published.py -k missing_or_wrong"),
]  # fmt: skip


def find(name: str, source: Path) -> tuple[Path, str] | None:
    """The file of a dotted name in a source tree and the name inside it; None if it is gone."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        place = source.joinpath(*parts[:end])
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.is_file() and defines(ast.parse(file.read_text("utf-8")), parts[end:]):
                return file, ".".join(parts[end:])
    return None


def defines(tree: ast.AST, names: list[str]) -> bool:
    """Whether a module or class body defines a function, or a class with a method."""
    kinds = ast.FunctionDef, ast.ClassDef
    found = [x for x in ast.iter_child_nodes(tree) if isinstance(x, kinds) and x.name == names[0]]
    return any(len(names) == 1 or defines(x, names[1:]) for x in found)


def break_it(defect: Callable, file: Path, name: str) -> None:
    """Append a defect to a module, and the line that puts it in place."""
    with file.open("a", encoding="utf-8") as module:
        module.write(f"\n\n{inspect.getsource(defect)}\n\n{name} = {defect.__name__}({name})\n")


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
        sys.path[:0] = [str(source), str(ROOT)]  # ROOT: where spawned processes find the tests
        os.chdir(ROOT)
        import itm

        assert itm.__file__.startswith(str(source)), itm.__file__
        code = int(pytest.main([*PYTEST, *shlex.split(tests)]))
        sys.stdout.flush()
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    text = output.read_text()
    if code not in (0, 1) or (code == 1 and NOT_A_FINDING.search(text)):
        raise RuntimeError(f"the tests did not get as far as the defect (code {code}):\n{text}")
    return code == 0


def run(mutant: Mutant, folder: Path) -> tuple[str, str]:
    """What became of a mutant, and the last line of its tests."""
    source, output = folder / "src", folder / "output.txt"
    shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", folder / "conf")
    place = find(mutant.name, source)
    if place is None:
        return "STALE", f"src/ has no {mutant.name}: name the function that does this now"
    break_it(mutant.defect, *place)
    passed = tested(source, mutant.tests, output)
    return "SURVIVED" if passed else "killed", output.read_text().strip().splitlines()[-1]


def main(names: list[str]) -> int:
    chosen = [m for m in MUTANTS if not names or m.defect.__name__ in names]
    unknown = set(names) - {mutant.defect.__name__ for mutant in chosen}
    if unknown:
        print(f"no such mutant: {', '.join(sorted(unknown))}")
        return 2
    for slow in ("torch", "pytorch_lightning", "hydra", "scipy.sparse", "hypothesis", "nltk"):
        import_module(slow)
    killed = 0
    for mutant in chosen:
        began = time.time()
        with tempfile.TemporaryDirectory() as folder:
            outcome, line = run(mutant, Path(folder))
        killed += outcome == "killed"
        seconds = f"({time.time() - began:.0f} s)"
        print(f"{outcome:9} {mutant.defect.__name__} {seconds}: {line}", flush=True)
    print(f"{killed} of {len(chosen)} mutants killed")
    return 0 if killed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
