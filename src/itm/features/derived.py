"""Write vocabulary, concepts, labels and CIDEr index; replace no other files of the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from itm.data.layout import Split
from itm.data.prepared import write_prepared
from itm.features.convert import RECORD
from itm.features.data_folder import place_files
from itm.utils.folders import locked, scratch_beside


def write_derived(
    kinds: Sequence[str],
    train: Split,
    folder: Path,
    options: Mapping[str, Any],
    overwrite: bool = False,
) -> list[Path]:
    """Make all files, then put them into the folder; its record says what they were made from.

    Args:
        kinds: see `itm.data.prepared.write_prepared`.
        train: the training split.
        folder: made if missing.
        options: of `write_prepared`, by name.
        overwrite: replace files that were made here from other captions or options.

    Raises:
        ValueError: unknown kind, or the folder holds another file of that name.
        InUseError: another process writes the folder.
    """
    captions = sha256("\n".join(train.captions).encode("utf-8")).hexdigest()
    settings = {"split": train.name, "captions": captions, **options}
    folder = folder.expanduser().resolve()
    with locked(folder), scratch_beside(folder) as work:
        made = [write_prepared(kind, train, work, **options) for kind in kinds]
        place_files(work, folder, RECORD, settings, overwrite)
    return [folder / path.name for path in made]
