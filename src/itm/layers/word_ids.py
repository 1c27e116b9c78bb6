"""Check the word ids of captions, and look up their vectors."""

from torch import Tensor, nn

from itm.batch import Captions


def check_lengths(captions: Captions) -> None:
    """Check that each caption has a length within its row of ids, without reading the ids.

    Raises:
        ValueError: the ids are not a matrix (C, L), the number of lengths is not C, or a length is
            not between 0 and L.
    """
    ids, lengths = tuple(captions.tokens.shape), captions.lengths
    if len(ids) != 2 or len(lengths) != ids[0] or not all(0 <= n <= ids[1] for n in lengths):
        raise ValueError(
            "captions must hold a row of ids per caption, padded with 0, and as many lengths, each "
            f"at most the number of columns, got ids {ids} and {len(lengths)} lengths"
            + (f" from {min(lengths)} to {max(lengths)}" if len(lengths) else "")
        )


def look_up_words(embed: nn.Embedding, ids: Tensor) -> Tensor:
    """Look up the vectors of words, (..., word_dim).

    Raises:
        ValueError: an id has no vector. On a GPU, CUDA ends the process instead.
    """
    try:
        vectors: Tensor = embed(ids)
    except IndexError as error:
        raise ValueError(
            f"captions hold ids from {int(ids.min())} to {int(ids.max())}, but the text encoder "
            f"has vectors for 0 to {embed.num_embeddings - 1}: use the vocabulary that it was "
            "built for"
        ) from error
    return vectors
