"""Implement the validation and test hooks of `Matcher`: encode batches, then score the split."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from itm.batch import Captions, Chunk, Images
from itm.data.layout import Split
from itm.matcher.gather import gather_chunks
from itm.matcher.inputs import check_images
from itm.matcher.protocol import MatcherLike
from itm.matcher.scoring import score_encoded
from itm.metrics.collected import RetrievalMetrics
from itm.metrics.ranking import Ranks


class Validated(MatcherLike, Protocol):
    """What the hooks need from a matcher; the two lists hold this process's part of the split."""

    encoded_images: list[Chunk]
    encoded_captions: list[Chunk]
    ranks: Ranks | None

    @property
    def trainer(self) -> Any: ...  # noqa: D102
    def log_dict(self, dictionary: Any, *, sync_dist: bool = False) -> None: ...  # noqa: D102


def on_epoch_start(matcher: Validated) -> None:
    """Drop the encodings of the last epoch."""
    matcher.encoded_images, matcher.encoded_captions = [], []


def step(
    matcher: Validated, batch: Images | Captions, batch_idx: int, dataloader_idx: int = 0
) -> None:
    """Encode a batch of images or captions, each once per epoch."""
    if isinstance(batch, Images):
        check_images(batch, matcher)
        matcher.encoded_images.append((matcher.encode_images(batch), batch.index.cpu()))
    else:
        matcher.encoded_captions.append((matcher.encode_captions(batch), batch.index.cpu()))


def on_validation_epoch_end(matcher: Validated) -> None:
    """Score the whole split and log `val/rsum` and the recalls."""
    _log_retrieval(matcher, "val", matcher.trainer.datamodule.val_split)


def on_test_epoch_end(matcher: Validated) -> None:
    """Score the test split by its protocol and log `test/...`."""
    _log_retrieval(matcher, "test", matcher.trainer.datamodule.test_split)


def _log_retrieval(matcher: Validated, stage: str, split: Split) -> None:
    """Score this process's images with all captions; rows are gathered by index."""
    captions, count = gather_chunks(matcher.encoded_captions), len(split.caption_image)
    metrics = RetrievalMetrics(split.caption_image, split.protocol, split.num_images)
    metrics = metrics.to(matcher.device)
    # A process without images must take part in the gathering, too.
    metrics.update(torch.empty(0, count), torch.empty(0, dtype=torch.long))
    for encoded, rows in matcher.encoded_images:
        out = np.empty((len(rows), count), np.float32)
        score_encoded(matcher, [(encoded, torch.arange(len(rows)))], captions, out)
        metrics.update(torch.from_numpy(out), rows)
    results = metrics.compute()
    matcher.ranks = metrics.ranks
    on_epoch_start(matcher)
    matcher.log_dict({f"{stage}/{name}": float(x) for name, x in results.items()}, sync_dist=False)
