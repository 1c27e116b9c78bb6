"""Divide pictures into splits: by lists, as the captions say, or at random."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from itm.data.layout import read_captions
from itm.data.names import Names, report_lost

NAMES = ("train", "dev", "test")
FRACTIONS = (0.8, 0.1, 0.1)  # of the pictures


def partition(
    names: Sequence[str],
    lists: Mapping[str, str | Path | None] | None = None,
    known: Mapping[str, str] | None = None,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
    partial: bool = False,
    folder: str | Path | None = None,
) -> dict[str, list[str]]:
    """Divide pictures into splits, each in the order of `names` or of its list.

    Args:
        names: all pictures.
        lists: split -> text file with one picture per line, or None.
        known: picture -> split, from the caption file; used if no list is given.
        fractions: shares of train, dev and test; used if there are neither lists nor known splits.
        seed: of the random draw; the same names, fractions and seed give the same splits.
        partial: accept lists that name many other pictures, see `itm.data.names.report_lost`.
        folder: the folder of the pictures, if `names` are files.

    Returns:
        Split -> pictures.

    Raises:
        ValueError: the fractions do not sum to 1, or are given beside splits with names; a split
            has no pictures, a picture is in two lists, or the lists belong to other pictures.
    """
    given = {split: path for split, path in (lists or {}).items() if path}
    if given or known:
        owner = "the lists name" if given else "the captions' file names"
        check_drawn(fractions, seed, f"{owner} the splits")
    if given:
        return _from_lists(names, given, partial, folder)
    if known:
        splits: dict[str, list[str]] = {}
        for name in names:
            if name in known:
                splits.setdefault(known[name], []).append(name)
        lost = [name for name in names if name not in known]
        report_lost(("pictures without a split", lost, len(names)), partial=partial)
        counts = ", ".join(f"{split} {len(found)}" for split, found in splits.items())
        print(f"splits as the captions' file names them: {counts}")
        return splits
    print(
        f"splits drawn at random with fractions={list(fractions)} seed={seed}, since neither lists "
        "nor the captions' file name them"
    )
    return _drawn(names, fractions, seed)


def check_shares(fractions: Sequence[float], seed: int) -> None:
    """Check the options of random splits.

    Raises:
        ValueError: the fractions are not three shares with a sum of 1, or the seed is negative.
    """
    valid = not isinstance(fractions, (int, float, str)) and len(fractions) == len(NAMES)
    if not valid or min(fractions) < 0 or not fractions[0] or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(
            f"fractions={fractions if not valid else list(fractions)}: expected shares of {NAMES} "
            "that sum to 1, that of train above 0"
        )
    if seed < 0:
        raise ValueError(f"seed={seed} must be at least 0")


def check_drawn(fractions: Sequence[float], seed: int, why: str) -> None:
    """Check that no random splits are asked for.

    Raises:
        ValueError: fractions or seed are not the usual ones.
    """
    if tuple(fractions) != FRACTIONS or seed:
        raise ValueError(
            f"fractions={list(fractions)} seed={seed} have no effect, because {why}: leave them out"
        )


def _from_lists(
    names: Sequence[str],
    lists: Mapping[str, str | Path],
    partial: bool,
    folder: str | Path | None,
) -> dict[str, list[str]]:
    find, owner = Names(names, folder), dict[str, str]()
    splits: dict[str, list[str]] = {}
    lost, total = [], 0
    listed = {split: read_captions(Path(path).expanduser()) for split, path in lists.items()}
    find.mention(line for lines in listed.values() for line in lines)
    for split, path in lists.items():
        lines = listed[split]
        if twice := [line for line, n in Counter(lines).items() if n > 1]:
            raise ValueError(f"{path} holds {twice[0]!r} twice; each picture belongs there once")
        matched = find.match(lines)
        found = [matched[line] for line in lines if line in matched]
        lost += [line for line in lines if line not in matched]
        total += len(lines)
        if not found:
            raise ValueError(
                f"no picture of {path} is among the {len(names)} pictures with captions"
            )
        for name in found:
            if name in owner:
                raise ValueError(f"{name} is in the lists of both {owner[name]} and {split}")
            owner[name] = split
        splits[split] = found
    find.report()
    rest = [name for name in names if name not in owner]
    report_lost(
        ("names of the lists without a picture", lost, total),
        ("pictures that are in no list", rest, len(names)),
        partial=partial,
    )
    return splits


def _drawn(names: Sequence[str], fractions: Sequence[float], seed: int) -> dict[str, list[str]]:
    check_shares(fractions, seed)
    ordered = sorted(names)
    sizes = [0, *(max(round(f * len(names)), 1 if f else 0) for f in fractions[1:])]
    sizes[0] = len(names) - sum(sizes)
    if sizes[0] < 1:
        raise ValueError(f"{len(names)} pictures are too few for the splits {list(fractions)}")
    order = np.random.default_rng(seed).permutation(len(ordered))
    bounds = np.cumsum([0, *sizes])
    return {
        split: [ordered[i] for i in sorted(order[a:b])]
        for split, a, b in zip(NAMES, bounds, bounds[1:], strict=False)
        if b > a
    }
