"""Sentence encoders: one vector per caption, the input of the two-branch networks' text branch.

Every encoder takes `Captions`, returns (C, dim) and has the attribute `dim`. `sentence_encoder`
builds one from the `text` option of a matcher.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from itm.batch import Captions
from itm.layers.functional import (
    full,
    full_precision,
    l2norm,
    length_mask,
    masked_mean,
    masked_softmax,
)
from itm.layers.text import BertText, GRUText, TextEncoder
from itm.layers.word_ids import check_lengths, look_up_words
from itm.utils.checks import check_choice


class SentenceVectors(TextEncoder):
    """Pass on precomputed `Captions.vectors`; the paper uses HGLMM Fisher vectors (6000 wide).

    Args:
        dim: width of the vectors.
    """

    needs_vectors = True

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, captions: Captions) -> Tensor:
        """Return the vectors (C, dim) of the captions.

        Raises:
            ValueError: the captions have no vectors, or vectors of another width.
        """
        vectors = captions.vectors
        if vectors is None:
            raise ValueError(
                "text=vectors reads precomputed sentence vectors: pass captions as a (C, F) array, "
                "or use text=gru, bert, mean or attend for sentences"
            )
        if vectors.shape[1] != self.dim:
            raise ValueError(f"sentence vectors must be {self.dim} wide, got {vectors.shape[1]}")
        return vectors


class MeanText(TextEncoder):
    """Average learnt word vectors.

    The sum is divided by the number of ids other than 0. Only a vocabulary with `pad_to` has zeros
    among a caption's words: their vector is added but not counted, as in the published training.

    Args:
        vocab_size: rows V of the embedding table.
        word_dim: width of the word vectors and of the result.
        word_reg: weight of the mean squared difference to the initial word vectors, which keeps
            pretrained vectors close to their start (published: 5e-5).
    """

    needs_words = True
    initial: Tensor

    def __init__(self, vocab_size: int, word_dim: int = 300, word_reg: float = 0.0):
        super().__init__()
        self.dim = self.word_dim = word_dim
        self.word_reg = word_reg
        self.embed = nn.Embedding(vocab_size, word_dim)
        # The usual scale of pretrained word vectors; it hardly matters, since batch norm follows.
        nn.init.normal_(self.embed.weight, std=0.4)
        if word_reg:
            self.register_buffer("initial", self.embed.weight.detach().clone())

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the word vectors as a group without weight decay."""
        params = list(self.embed.parameters())
        return [{"name": "words", "params": params, "weight_decay": 0.0}]

    def missing_words(self) -> np.ndarray | None:
        """Return the initial vectors, because N(0, 1) would outweigh pretrained ones in a mean."""
        return self.embed.weight.detach().numpy()

    def start_from(self, vectors: Tensor) -> None:
        """Take pretrained word vectors (V, word_dim)."""
        with torch.no_grad():
            self.embed.weight.copy_(vectors)
            if self.word_reg:
                self.initial.copy_(vectors)

    def penalty(self) -> dict[str, Tensor]:
        """Compute the pull towards the initial word vectors, if `word_reg` is set."""
        if not self.word_reg:
            return {}
        return {"words": self.word_reg * (self.embed.weight - self.initial).square().mean()}

    def forward(self, captions: Captions) -> Tensor:
        """Average the words, (C, word_dim).

        A caption without known words gives the sum over its padding, which is 0 without `pad_to`.
        """
        words, mask = self.words(captions)
        return self.mean(words, mask, captions.tokens)

    def words(self, captions: Captions) -> tuple[Tensor, Tensor]:
        """Return word vectors (C, L, word_dim) and their mask (C, L).

        Raises:
            ValueError: lengths or ids do not fit.
        """
        check_lengths(captions)
        tokens = captions.tokens
        mask = length_mask(captions.lengths, tokens.shape[1], tokens.device)
        return look_up_words(self.embed, tokens), mask

    def mean(self, words: Tensor, mask: Tensor, tokens: Tensor) -> Tensor:
        """Divide the sum over the mask by the number of ids other than 0, (C, word_dim)."""
        known = (mask & (tokens != 0)).sum(1, keepdim=True).clamp_min(1)
        return (words * mask[..., None]).sum(1) / known


class AttendText(MeanText):
    """Sum word vectors weighted by a softmax over relu(w . [mean; word] + b), and normalise.

    Args:
        vocab_size: rows V of the embedding table.
        word_dim: width of the word vectors and of the result.
        word_reg: see `MeanText`.
    """

    def __init__(self, vocab_size: int, word_dim: int = 300, word_reg: float = 0.0):
        super().__init__(vocab_size, word_dim, word_reg)
        self.weigh = nn.Linear(2 * word_dim, 1)

    def forward(self, captions: Captions) -> Tensor:
        """Return sentence vectors (C, word_dim) of unit length."""
        words, mask = self.words(captions)
        context = self.mean(words, mask, captions.tokens)[:, None].expand_as(words)
        score = self.weigh(torch.cat([context, words], -1)).relu().squeeze(-1)  # (C, L)
        return self.attend(score, words, mask)

    @full_precision
    def attend(self, score: Tensor, words: Tensor, mask: Tensor) -> Tensor:
        """Compute the attended sum (C, word_dim) in float32."""
        weight = masked_softmax(score, mask)  # (C, L)
        return l2norm((full(words) * weight[..., None]).sum(1), eps=1e-12)


class GRUSentence(GRUText):
    """Average the states of a bidirectional GRU.

    Args:
        vocab_size: rows V of the embedding table.
        word_dim: width of the word embedding.
        dim: width of the states and of the result.
    """

    def __init__(self, vocab_size: int, word_dim: int = 300, dim: int = 1024):
        super().__init__(vocab_size, word_dim, dim)
        self.dim = dim

    def forward(self, captions: Captions) -> Tensor:  # type: ignore[override]
        """Return sentence vectors (C, dim)."""
        return masked_mean(*super().forward(captions))


class BertSentence(BertText):
    """Average the word pieces of a pretrained transformer, mapped to `dim`.

    See `BertText` for details of the options.

    Args:
        dim: width of the result.
        path: local folder or hub name of the pretrained model.
        finetune: train the transformer too.
        lr_scale: learning rate of the transformer relative to the rest.
        config: the transformer's configuration.
        dropout: dropout on the transformer's output.
    """

    def __init__(
        self,
        dim: int = 1024,
        path: str | None = None,
        finetune: bool = False,
        lr_scale: float = 0.1,
        config: dict[str, Any] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__(dim, path, finetune, lr_scale, config, dropout)
        self.dim = dim

    def forward(self, captions: Captions) -> Tensor:  # type: ignore[override]
        """Return sentence vectors (C, dim)."""
        return masked_mean(*super().forward(captions))


SentenceEncoder = SentenceVectors | MeanText | GRUSentence | BertSentence


def sentence_encoder(
    text: dict[str, Any], vocab_size: int | None, word_dim: int, sentence_dim: int | None
) -> SentenceEncoder:
    """Build the encoder named by `text["name"]`.

    Args:
        text: "name" is "vectors", "mean", "attend", "gru" or "bert"; the other keys are options of
            `MeanText`, `AttendText` or `BertText`.
        vocab_size: V; required except for "vectors" and "bert".
        word_dim: width of the word vectors.
        sentence_dim: width of precomputed vectors, or of the result of "gru" and "bert" (1024).

    Raises:
        ValueError: the name is unknown, or a size is missing.
    """
    options = {key: value for key, value in text.items() if key != "name"}
    name = text["name"]
    if name == "vectors":
        if sentence_dim is None:
            raise ValueError("text=vectors needs sentence_dim, the width of the sentence vectors")
        return SentenceVectors(sentence_dim)
    if name == "bert":
        return BertSentence(sentence_dim or 1024, **options)
    check_choice("text", name, ("vectors", "mean", "attend", "gru", "bert"))
    if vocab_size is None:
        raise ValueError(f"text={name} needs vocab_size, the number of words")
    if name == "gru":
        return GRUSentence(vocab_size, word_dim, sentence_dim or 1024)
    return (MeanText if name == "mean" else AttendText)(vocab_size, word_dim, **options)
