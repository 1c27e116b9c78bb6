"""Implement the validation and test hooks of `Matcher`: encode batches, then score the split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from itm.batch import Captions, Chunk, Images, check_encoded, take
from itm.data.layout import Split
from itm.matcher.gather import gather_chunks
from itm.matcher.inputs import check_images
from itm.matcher.protocol import MatcherLike
from itm.matcher.scoring import score_encoded
from itm.metrics.ranking import Ranks
from itm.metrics.torchmetric import RetrievalMetrics
from itm.training.lightning_private import report_once
from itm.training.progress import say, scoring
from itm.utils.distributed import gather_rows


class Validated(MatcherLike, Protocol):
    """What the hooks need from a matcher; the two lists hold this process's part of the split."""

    encoded_images: list[Chunk]
    encoded_captions: list[Chunk]
    ranks: Ranks | None

    @property
    def trainer(self) -> Any: ...  # noqa: D102
    @property
    def log(self) -> Callable[..., None]: ...  # noqa: D102


def on_epoch_start(matcher: Validated) -> None:
    """Drop the encodings of the last epoch."""
    matcher.encoded_images, matcher.encoded_captions = [], []


def step(
    matcher: Validated, batch: Images | Captions, batch_idx: int, dataloader_idx: int = 0
) -> None:
    """Encode a batch of images or captions, each once per epoch."""
    if isinstance(batch, Images):
        check_images(batch, matcher)
        encoded = matcher.encode_images(batch)
        check_encoded(encoded, "encode_images")
        matcher.encoded_images.append((encoded, batch.index.cpu()))
    elif isinstance(batch, Captions):
        encoded = matcher.encode_captions(batch)
        check_encoded(encoded, "encode_captions")
        matcher.encoded_captions.append((encoded, batch.index.cpu()))
    else:
        kind = type(batch).__name__
        raise TypeError(
            f"validation and test read batches of Images and of Captions, got {kind}: use the "
            "loaders of RegionDataModule, which give each image and caption once"
        )


def on_validation_epoch_end(matcher: Validated) -> None:
    """Score the validation split and log `val/...`."""
    _log_retrieval(matcher, "val", _split(matcher, "val_split"))


def on_test_epoch_end(matcher: Validated) -> None:
    """Score the test split by its protocol and log `test/...`."""
    _log_retrieval(matcher, "test", _split(matcher, "test_split"))


def _split(matcher: Validated, name: str) -> Split:
    data = matcher.trainer.datamodule
    if isinstance(split := getattr(data, name, None), Split):
        return split
    given = "" if data is None else f" (a {type(data).__name__} without {name} was given)"
    raise ValueError(
        "validation and test need the data module, which knows which captions belong to an "
        f"image: pass datamodule=RegionDataModule(FOLDER) to the trainer, not its loaders{given}"
    )


def _log_retrieval(matcher: Validated, stage: str, split: Split) -> None:
    """Score this process's images with all captions; rows are gathered by index."""
    part = _part(matcher, split)
    if part is None:
        return on_epoch_start(matcher)
    captions, count = part.captions, len(part.caption_image)
    metrics = RetrievalMetrics(part.caption_image, part.protocol, part.num_images)
    metrics = metrics.to(matcher.device)
    # A process without images must take part in the gathering, too.
    metrics.update(torch.empty(0, count), torch.empty(0, dtype=torch.long))
    for encoded, rows in scoring(matcher.trainer, part.images):
        out = np.empty((len(rows), count), np.float32)
        with matcher.trainer.precision_plugin.forward_context():  # as encoding a batch, see `step`
            score_encoded(matcher, [(encoded, torch.arange(len(rows)))], captions, out)
        metrics.update(torch.from_numpy(out), rows)
    results = metrics.compute()
    if not matcher.trainer.sanity_checking:
        matcher.ranks = metrics.ranks
    on_epoch_start(matcher)
    for name, value in results.items():
        matcher.log(f"{stage}/{name}", float(value), prog_bar=name == "rsum", sync_dist=False)
    report_once(matcher.trainer)


class _Part(NamedTuple):
    """The images and captions that were read, numbered anew if they are not the whole split."""

    images: list[Chunk]  # of this process
    captions: list[Chunk]  # of all processes
    caption_image: np.ndarray
    num_images: int
    protocol: str


def _part(matcher: Validated, split: Split) -> _Part | None:
    """Find out what was read.

    Of a part of the split, captions of other images and images without captions are left out.

    Returns:
        None if nothing can be ranked in Lightning's sanity check, whose scores count for nothing.

    Raises:
        ValueError: nothing can be ranked in a validation or test.
    """
    images, captions = matcher.encoded_images, gather_chunks(matcher.encoded_captions)
    seen = torch.zeros(split.num_images, dtype=torch.bool)
    own = [rows for _, rows in images] or [torch.empty(0, dtype=torch.long)]
    seen[gather_rows(torch.cat(own).to(matcher.device)).cpu()] = True
    read = torch.zeros(len(split.captions), dtype=torch.bool)
    for _, rows in captions:
        read[rows] = True
    if seen.all() and read.all():
        image = split.caption_image
        return _Part(images, captions, image, split.num_images, split.protocol)
    owner = torch.from_numpy(np.asarray(split.caption_image))
    read &= seen[owner]
    seen[:] = False
    seen[owner[read]] = True
    if not seen.any() and matcher.trainer.sanity_checking:
        return None
    if not seen.any():
        raise ValueError(
            "the batches that were read hold no caption of an image that was read, so nothing can "
            "be ranked: raise trainer.limit_val_batches (limit_test_batches)"
        )
    if matcher.trainer.is_global_zero and not _is_known(matcher, int(seen.sum()), int(read.sum())):
        say(
            f"scored {int(seen.sum())} of {split.num_images} images and {int(read.sum())} of "
            f"{len(read)} captions of {split.name}, because the trainer limits the batches: among "
            "fewer candidates the recalls are higher than those of the whole split",
            matcher.trainer,
        )
    image_row, caption_row = (x.cumsum(0) - 1 for x in (seen, read))
    return _Part(
        _select(images, seen, image_row),
        _select(captions, read, caption_row),
        image_row[owner[read]].numpy(),
        int(seen.sum()),
        "full",
    )


def _is_known(matcher: Validated, images: int, captions: int) -> bool:
    """Tell whether the last validation of this training read as little; it was said then."""
    if matcher.trainer.sanity_checking:
        return True
    before = None if matcher.ranks is None else tuple(map(len, matcher.ranks))
    return matcher.trainer.state.fn == "fit" and before == (images, captions)


def _select(chunks: list[Chunk], kept: Tensor, row: Tensor) -> list[Chunk]:
    """Keep some rows of chunks, with their new numbers."""
    return [(take(encoded, kept[rows]), row[rows[kept[rows]]]) for encoded, rows in chunks]
