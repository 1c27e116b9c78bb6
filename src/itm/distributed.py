"""What several processes exchange: encodings of an evaluation, batches of a gathered loss."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from itm.batch import Captions, Encoded, Images, Pairs
from itm.similarity import Chunk, concatenate, map_encoded


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_chunks(chunks: list[Chunk]) -> list[Chunk]:
    """The chunks of all processes, in rank order; a row may come twice and then counts once."""
    if world_size() == 1:
        return chunks
    device = next(
        (x.device for c, _ in chunks for x in c[:3] if x is not None), torch.device("cpu")
    )
    host = [(map_encoded(c, lambda x: x.cpu()), rows) for c, rows in chunks]
    every: list[Any] = [None] * world_size()
    dist.all_gather_object(every, host)
    return [(map_encoded(c, lambda x: x.to(device)), rows) for part in every for c, rows in part]


def gather_batch(
    pairs: Pairs, images: Encoded, captions: Encoded
) -> tuple[Pairs, Encoded, Encoded]:
    """The batch of all processes with gradients.

    Every process then computes the loss of the global batch. The gather's backward sums the
    gradients that all processes send to one process's encodings, and DDP averages the parameter
    gradients over processes: together exactly the gradient of the global loss.

    Raises:
        ValueError: the batch has a given relevance or target matrix, which only covers one process.
    """
    if world_size() == 1:
        return pairs, images, captions
    if pairs.relevance is not None or pairs.target is not None:
        raise ValueError("gather=true does not work with a relevance or target matrix per process")
    images, captions = _gather_encoded(images), _gather_encoded(captions)
    counts: list[Any] = [None] * world_size()
    here = pairs.captions
    plain = (
        len(pairs.images.index),
        here.lengths,
        *(x.cpu() for x in (pairs.images.index, here.index, here.image)),
    )
    dist.all_gather_object(counts, plain)
    device = here.image.device
    offsets = [sum(c[0] for c in counts[:i]) for i in range(len(counts))]
    image = torch.cat([c[4] + offset for c, offset in zip(counts, offsets, strict=True)]).to(device)
    index = torch.cat([c[3] for c in counts]).to(device)
    identity = torch.cat([c[2] for c in counts]).to(device)
    lengths = tuple(n for c in counts for n in c[1])
    labels = None if here.labels is None else _gather(here.labels)
    # Features and tokens of the other processes are not needed once both sides are encoded.
    regions = pairs.images.regions.new_zeros(len(identity), 0, 0)
    return (
        Pairs(
            Images(regions, regions.new_zeros(len(identity), 0, dtype=torch.bool), identity),
            Captions(here.tokens.new_zeros(len(index), 0), lengths, index, image, labels),
        ),
        images,
        captions,
    )


def _gather_encoded(encoded: Encoded) -> Encoded:
    """Rows of all processes; parts are padded to the longest of all."""
    if encoded.parts is not None:
        size = torch.tensor(encoded.parts.shape[1], device=encoded.parts.device)
        dist.all_reduce(size, op=dist.ReduceOp.MAX)
        width = int(size)
        assert encoded.mask is not None
        template = Encoded(
            None,
            encoded.parts[:0].new_zeros(0, width, encoded.parts.shape[2]),
            encoded.mask[:0].new_zeros(0, width),
        )
        padded = concatenate([Encoded(None, encoded.parts, encoded.mask), template])
        encoded = encoded._replace(parts=padded.parts, mask=padded.mask)
    return map_encoded(encoded, _gather)


def _gather(x: Tensor) -> Tensor:
    """All processes' rows (counts may differ), differentiable for floating-point tensors."""
    from torch.distributed.nn.functional import all_gather

    counts = [torch.zeros((), dtype=torch.long, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor(len(x), device=x.device))
    longest = int(max(counts))
    padded = torch.cat([x, x.new_zeros(longest - len(x), *x.shape[1:])])
    if x.is_floating_point():
        parts = list(all_gather(padded.contiguous()))
    else:
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded.contiguous())
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])
