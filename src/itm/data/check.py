"""Report on one page what a data folder holds, what is missing and which captions look broken.

The report also covers splits that training would refuse, so that all problems show at once.
"""

from __future__ import annotations

from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from itm.data.caption_file import caption_path, is_blank
from itm.data.layout import Split, read_array, read_split
from itm.data.names import Names
from itm.data.split import warnings_of
from itm.text.tokenizers import tokenize

SPLITS = ("train", "dev", "val", "test", "testall")
OPTIONAL = ("vocab.json", "concepts.json", "labels.json", "cider.npz")
LONG, SHORT = 100, 3  # words; captions outside these bounds are reported


def page(root: str | Path, captions_per_image: int | None = None, names: Sequence[str] = ()) -> str:
    """Write the report on a folder.

    Args:
        root: the folder.
        captions_per_image: as in `itm.data.layout.read_split`.
        names: splits to report on, in addition to the usual ones that exist.

    Raises:
        FileNotFoundError: no such folder.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"data.root={root}: no such folder")
    found = [name for name in SPLITS if any(root.glob(f"{name}_*"))]
    lines, splits = [f"{root}"], []
    for name in dict.fromkeys([*names, *found]):
        caps = root / f"{name}_caps.txt"
        try:
            caps = caption_path(root, name)
            splits.append(read_split(root, name, captions_per_image))
            lines.append(describe(splits[-1]))
            lines += [] if name == "train" else warnings_of(splits[-1])
        except (ValueError, OSError) as error:
            lines.append(f"{name}: CANNOT BE USED: {error}")
            if (root / f"{name}_ims.npy").is_file():
                lines.append(f"  {_shape(root / f'{name}_ims.npy')}")
        if caps.is_file():
            lines += [f"  {caps.name}: {problem}" for problem in caption_problems(caps)]
    lines += [f"LEAK: {text}" for text in shared_images(splits)]
    rows = [split.name for split in splits if _numbers_rows(split)]
    if len(rows) > 1:
        lines.append(f"ids of {', '.join(rows)} number the rows of each, so they tell of no leak")
    made = [name for name in OPTIONAL if (root / name).is_file()]
    lines.append(f"files made from the captions: {', '.join(made) or 'none'}")
    return "\n".join(lines)


def describe(split: Split, sample: int = 200) -> str:
    """Describe a split: counts, shapes, and statistics of the features of some images."""
    rows = np.linspace(0, split.num_images - 1, min(sample, split.num_images)).astype(int)
    block = split.images(np.unique(rows))
    norms = np.linalg.norm(block, axis=-1)
    words = np.array([len(tokenize(caption)) for caption in split.captions])
    per_image = Counter(np.bincount(split.caption_image, minlength=split.num_images).tolist())
    counts = ", ".join(f"{n} images with {k}" for k, n in sorted(per_image.items()))
    zero, ids, boxes = (norms == 0).mean(), split.ids is not None, split.boxes is not None
    return "\n".join(
        [
            f"{split.name}: {split.num_images} images, {len(split.captions)} captions ({counts})",
            f"  features {split.features.dtype} {split.features.shape}, region norm mean "
            f"{norms.mean():.2f}, {zero:.1%} zero regions ({len(block)} images read)",
            f"  caption length mean {words.mean():.1f}, max {words.max()} words; "
            f"ids {'yes' if ids else 'no'}, boxes {'yes' if boxes else 'no'}",
        ]
    )


def _shape(path: Path) -> str:
    try:
        array = read_array(path)
    except ValueError as error:
        return str(error)
    return f"{path.name} is {array.dtype} {array.shape}"


def caption_problems(path: Path, most: int = 3) -> list[str]:
    """List what looks broken in a caption file: each kind with its count and first lines."""
    found: dict[str, list[int]] = {}
    first: dict[str, int] = {}
    again = 0
    lines = path.read_bytes().removeprefix(BOM_UTF8).split(b"\n")
    if not lines[-1].strip():
        lines.pop()
    if path.suffix == ".tsv":  # id<TAB>caption
        lines = [line.partition(b"\t")[2] for line in lines]
    for number, line in enumerate(lines, 1):
        for kind in _kinds(line):
            found.setdefault(kind, []).append(number)
        text = line.decode("utf-8", "replace").strip().lower()
        again += text in first
        first.setdefault(text, number)
    texts = []
    for kind, numbers in found.items():
        more = ", ..." if len(numbers) > most else ""
        where = ", ".join(map(str, numbers[:most])) + more
        texts.append(f"{len(numbers)} {kind} (line {where})")
    if again:
        texts.append(f"{again} of {len(lines)} captions occurred before in the same words")
    return texts


def _kinds(line: bytes) -> list[str]:
    """List what is wrong with one line."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return ["not UTF-8"]
    if is_blank(text.strip()):
        return ["empty"]
    words = len(tokenize(text))
    checks = {
        "Python bytes literals": text.startswith(("b'", 'b"')),
        "with a replacement character": "\ufffd" in text,
        "with control characters": any(ord(c) < 32 and c not in "\t\r" for c in text),
        f"of fewer than {SHORT} words": words < SHORT,
        f"of more than {LONG} words": words > LONG,
    }
    return [kind for kind, wrong in checks.items() if wrong]


def _is_known(names: Names, name: str) -> bool:
    try:
        return names.find(name) is not None
    except ValueError:  # two of the names
        return True


def _numbers_rows(split: Split) -> bool:
    """Tell whether the ids are the numbers of the images or of their rows, from 0 or from 1."""
    if split.num_images < 2 or not all(name.isdecimal() for name in split.ids or [""]):
        return False
    numbers = np.array([int(name) for name in split.ids or []], object)
    return any(
        (numbers - first == kind).all()
        for kind in (np.arange(split.num_images), split.row)
        for first in (0, 1)
    )


def shared_images(splits: Sequence[Split]) -> list[str]:
    """Find images whose ids are in two splits; test is the first part of testall by design.

    Ids may have different forms in the two splits: `1` and `01`, `a` and `a.jpg`. Ids that number
    the rows of both splits are not compared.
    """
    texts = []
    for i, a in enumerate(splits):
        for b in splits[i + 1 :]:
            if a.ids is None or b.ids is None or {a.name, b.name} == {"test", "testall"}:
                continue
            if _numbers_rows(a) and _numbers_rows(b):
                continue
            names = Names(a.ids)
            both = [name for name in b.ids if _is_known(names, name)]
            if both:
                texts.append(f"{a.name} and {b.name} share {len(both)} ids, such as {both[0]!r}")
    return texts
