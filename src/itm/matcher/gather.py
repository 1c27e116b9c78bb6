"""Gather from several processes: encodings in evaluation, batches for a gathered loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from itm.batch import Captions, Chunk, Encoded, Images, Pairs, map_encoded, to_device
from itm.losses.base import as_loss
from itm.matcher.protocol import MatcherLike
from itm.utils.distributed import gather_rows, rank_and_size


def gather_chunks(chunks: list[Chunk]) -> list[Chunk]:
    """Gather the chunks of all processes in rank order; rows may occur more than once."""
    _, processes = rank_and_size()
    if processes == 1:
        return chunks
    device = next(
        (x.device for c, _ in chunks for x in c[:3] if x is not None), torch.device("cpu")
    )
    host = [(map_encoded(c, lambda x: x.cpu()), rows) for c, rows in chunks]
    every: list[Any] = [None] * processes
    dist.all_gather_object(every, host)
    return [(to_device(c, device), rows) for part in every for c, rows in part]


def gather_batch(
    pairs: Pairs, images: Encoded, captions: Encoded
) -> tuple[Pairs, Encoded, Encoded]:
    """Gather the batch of all processes, with gradients but without features and tokens.

    Every process then computes the loss of the global batch. The backward of the gather sums the
    gradients from all processes for each encoding, and DDP averages the parameter gradients over
    processes; together this is exactly the gradient of the global loss.

    A relevance matrix covers the pairs of one process only and is dropped: a loss that needs it
    must look it up by `images.index` and `captions.index`, as `itm.losses.SAM` does.

    Raises:
        ValueError: the batch has a target matrix, which covers the pairs of one process only.
    """
    if rank_and_size()[1] == 1:
        return pairs, images, captions
    if pairs.target is not None:
        raise ValueError(
            "gather=true cannot be used with labelled pairs, because their target matrix covers "
            "the pairs of one process only: set loss.gather=false"
        )
    here, device = pairs.captions, pairs.captions.image.device
    counts = gather_rows(torch.tensor([len(pairs.images.index)], device=device))  # (processes,)
    start = counts.cumsum(0) - counts  # first global row of each process's images
    index, rows = gather_rows(pairs.images.index), gather_rows(here.index)
    image = gather_rows(here.image + start[rank_and_size()[0]])
    lengths = gather_rows(torch.tensor(here.lengths, device=device)).tolist()
    labels, concepts, vectors = (
        None if x is None else gather_rows(x) for x in (here.labels, here.concepts, here.vectors)
    )
    regions = pairs.images.regions.new_zeros(len(index), 0, pairs.images.regions.shape[2])
    mask = pairs.images.mask.new_zeros(len(index), 0)
    tokens = here.tokens.new_zeros(len(rows), 0)
    return (
        Pairs(
            Images(regions, mask, index),
            Captions(tokens, tuple(lengths), rows, image, labels, concepts, vectors),
        ),
        map_encoded(images, gather_rows),
        _gather_captions(captions, lengths),
    )


def count_captions(pairs: Pairs) -> int | Tensor:
    """Count the captions of all processes; on their device, so that training does not wait."""
    own = len(pairs.captions.lengths)
    if rank_and_size()[1] == 1:
        return own
    total = torch.full((), own, device=pairs.captions.image.device)
    dist.all_reduce(total)
    return total


def mean_of_all(matcher: MatcherLike, mean: Tensor, pairs: Pairs) -> Tensor:
    """Weight a mean over the captions of this process as a part of the mean over all captions.

    DDP averages the gradients of P processes. With a gathering loss they must add up to that of the
    global batch, so the mean counts P x own captions / all captions. It is 1 for batches of one
    size; without a gathering loss each process has a batch of its own, and nothing changes.

    Args:
        matcher: has the loss.
        mean: mean over captions, scalar.
        pairs: the batch of this process.
    """
    processes = rank_and_size()[1]
    if processes == 1 or matcher.loss is None or not as_loss(matcher.loss).gather:
        return mean
    return mean * (len(pairs.captions.lengths) * processes / count_captions(pairs))


def _gather_captions(captions: Encoded, lengths: list[int]) -> Encoded:
    """Gather encoded captions; their lengths are on the host, which NCCL cannot gather."""
    aux = captions.aux or {}
    rest = {name: x for name, x in aux.items() if name != "lengths"}
    found = map_encoded(captions._replace(aux=rest), gather_rows)
    own = {"lengths": torch.tensor(lengths)} if "lengths" in aux else {}
    return found._replace(aux={**(found.aux or {}), **own} or None)
