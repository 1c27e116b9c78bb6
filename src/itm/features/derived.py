"""Write vocabulary, concepts, labels and CIDEr index into a data folder, over no other files."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from itm.data.layout import Split
from itm.data.prepared import write_prepared
from itm.features.convert import RECORD
from itm.utils.manifest import place_files


def write_derived(
    kinds: Sequence[str],
    train: Split,
    folder: Path,
    min_count: int = 4,
    num_concepts: int = 300,
    num_labels: int = 500,
    overwrite: bool = False,
) -> list[Path]:
    """Make all files, then put them into the folder; its record says what they were made of.

    Args:
        kinds: see `itm.data.prepared.write_prepared`.
        train: the training split.
        folder: made if missing.
        min_count: how often a word of the vocabulary must occur.
        num_concepts: K of the concepts.
        num_labels: K of the labels.
        overwrite: replace files that were made here from other captions or options.

    Raises:
        ValueError: unknown kind, or the folder holds another file of that name.
    """
    own = sha256("\n".join(train.captions).encode("utf-8")).hexdigest()
    sizes = {"min_count": min_count, "num_concepts": num_concepts, "num_labels": num_labels}
    folder = folder.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=folder) as work:
        made = [write_prepared(kind, train, Path(work), *sizes.values()) for kind in kinds]
        place_files(
            Path(work), folder, RECORD, {"split": train.name, "captions": own, **sizes}, overwrite
        )
    return [folder / path.name for path in made]
