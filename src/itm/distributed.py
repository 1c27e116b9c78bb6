"""What several processes exchange: encodings of an evaluation, batches of a gathered loss."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from itm.batch import Captions, Encoded, Images, Pairs
from itm.similarity import Chunk, map_encoded


def rank_and_size() -> tuple[int, int]:
    """This process's number and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_chunks(chunks: list[Chunk]) -> list[Chunk]:
    """The chunks of all processes, in rank order; a row may come twice and then counts once."""
    _, processes = rank_and_size()
    if processes == 1:
        return chunks
    device = next(
        (x.device for c, _ in chunks for x in c[:3] if x is not None), torch.device("cpu")
    )
    host = [(map_encoded(c, lambda x: x.cpu()), rows) for c, rows in chunks]
    every: list[Any] = [None] * processes
    dist.all_gather_object(every, host)
    return [(map_encoded(c, lambda x: x.to(device)), rows) for part in every for c, rows in part]


def gather_batch(
    pairs: Pairs, images: Encoded, captions: Encoded
) -> tuple[Pairs, Encoded, Encoded]:
    """The batch of all processes, with gradients; features and tokens are left out.

    Every process then computes the loss of the global batch. The gather's backward sums the
    gradients that all processes send to one process's encodings, and DDP averages the parameter
    gradients over processes: together exactly the gradient of the global loss.

    A relevance matrix covers the pairs of one process only and is dropped: a loss that needs one
    must find it from `images.index` and `captions.index`, as `itm.losses.SAM` does.

    Raises:
        ValueError: the batch has a target matrix, which knows nothing of other processes' pairs.
    """
    if rank_and_size()[1] == 1:
        return pairs, images, captions
    if pairs.target is not None:
        raise ValueError(
            "gather=true with labelled pairs: their target matrix covers the pairs of one process "
            "only, so there is nothing to gather; set loss.gather=false"
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
        map_encoded(captions, gather_rows),
    )


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all processes in rank order, differentiable; (n, ...) -> (sum of n, ...).

    Processes may differ in every dimension: rows are cut to their true number, and the others (the
    number of regions or words) are padded with zeros to the largest.
    """
    _, processes = rank_and_size()
    if processes == 1:
        return x
    shape = torch.tensor(x.shape, device=x.device)
    shapes = [torch.empty_like(shape) for _ in range(processes)]
    dist.all_gather(shapes, shape)
    every = torch.stack(shapes).tolist()
    largest = [max(sizes) for sizes in zip(*every, strict=True)]
    padding = [n for a, b in zip(x.shape, largest, strict=True) for n in (b - a, 0)]
    padded = torch.nn.functional.pad(x, padding[::-1])  # from the last dimension, (before, after)
    parts = _AllGather.apply(padded)
    return torch.cat([part[: sizes[0]] for part, sizes in zip(parts, every, strict=True)])


class _AllGather(torch.autograd.Function):
    """Equal shapes from all processes; backward sums what they send to this process's part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return tuple(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every process takes part in the sum, or the others would wait for it forever.
        total = torch.stack(gradients)
        dist.all_reduce(total)
        return total[dist.get_rank()]
