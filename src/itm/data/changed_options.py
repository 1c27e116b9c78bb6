"""Refuse options of a data module that are set after they were read: they would have no effect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itm.data.module import RegionDataModule

OF_SPLITS = {  # option -> the stages whose split it determines
    **dict.fromkeys(("train", "fraction", "noise_ratio", "noise_by", "noise_file"), ("train",)),
    **dict.fromkeys(("val", "val_images"), ("val",)),
    **dict.fromkeys(("test", "protocol"), ("test",)),
    **dict.fromkeys(("root", "limit", "captions_per_image", "phrases"), ("train", "val", "test")),
}
OF_LISTS = {  # option -> the word list that is made with it
    **dict.fromkeys(("vocab", "min_count", "tokenizer", "word_drop"), "vocabulary"),
    **dict.fromkeys(("labels", "num_labels"), "label_vocabulary"),
    **dict.fromkeys(("concepts", "num_concepts"), "concept_vocabulary"),
}
OF_BATCHES = ("needs", "vectors", *dict.fromkeys(OF_LISTS.values()))  # may change between matchers
OF_SEED = ("noise_ratio", "region_drop", "word_drop")  # what is drawn by the seed only once
OF_READERS = ("resident", "region_drop", "max_unknown")


def check_unread(data: RegionDataModule, name: str, value: Any) -> None:
    """Check that an option of a data module is still to be read when it is set.

    Args:
        data: the data module, maybe in its constructor.
        name: name of the attribute; only options that were read are checked.
        value: its new value; an equal one is accepted.

    Raises:
        ValueError: the splits, word lists or readers that it determines are made.
    """
    known = vars(data)
    if name in OF_SPLITS:
        is_read = any(stage in known.get("_splits", ()) for stage in OF_SPLITS[name])
    elif name in OF_LISTS:
        is_read = known.get(OF_LISTS[name]) is not None
    elif name == "seed":  # the order of batches follows a new one
        is_read = "train" in known.get("_splits", ()) and any(known[x] for x in OF_SEED)
    else:
        is_read = name in OF_READERS and bool(known.get("_readers"))
    if is_read and known[name] != value:
        raise ValueError(
            f"data.{name} was read as {known[name]!r} and cannot become {value!r} any more: make a "
            f"new RegionDataModule with {name}={value!r}"
        )
