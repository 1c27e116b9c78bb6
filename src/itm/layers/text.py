"""Word vectors from tokens: a GRU over learnt embeddings, or a pretrained BERT.

Every encoder here is called with `Captions` and returns `(words (C, L, D), mask (C, L))`; padded
positions are exact zeros. `text_encoder` picks one from the `text` option of a matcher.
`TextEncoder` is what a matcher may ask any encoder, also those of `itm.layers.sentence`.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from itm.batch import Captions
from itm.layers.functional import full, last_state, length_mask, masked_mean


class TextEncoder(nn.Module):
    """Base of all text encoders: what a matcher asks its encoder, with the usual answers.

    Attributes:
        needs_words: reads `Captions.tokens`, so arrays of sentence vectors are refused.
        needs_vectors: reads `Captions.vectors`, so sentences are refused.
        pretrained: contains a pretrained transformer.
        word_dim: width of the word embedding that it learns, None without one.
    """

    needs_words: bool = False
    needs_vectors: bool = False
    pretrained: bool = False
    word_dim: int | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """List optimiser groups of parameters with a learning rate or weight decay of their own.

        See `itm.matcher.Matcher.parameter_groups`; all other parameters join the matcher's groups.
        """
        return []

    def saved_arguments(self) -> dict[str, Any]:
        """Return what a checkpoint adds to the `text` option to rebuild this encoder."""
        return {}

    def pool(self, words: Tensor, mask: Tensor) -> Tensor:
        """Sum up each caption in one vector; here the mean of its words.

        Args:
            words: (C, L, D) word vectors.
            mask: (C, L), True = real word.

        Returns:
            (C, D) float32.
        """
        return masked_mean(full(words), mask)

    def penalty(self) -> dict[str, Tensor]:
        """Return losses of the encoder itself: name -> scalar, weights included."""
        return {}

    def start_from(self, vectors: Tensor) -> None:
        """Take pretrained word vectors (V, word_dim), see `itm.text.word_vectors.word_vectors`.

        Raises:
            NotImplementedError: the encoder learns no word embedding.
        """
        raise NotImplementedError(f"{type(self).__name__} learns no word embedding")

    def missing_words(self) -> np.ndarray | None:
        """Return start vectors (V, word_dim) for words without a pretrained one; None = N(0, 1)."""
        return None


def as_text_encoder(module: Any) -> TextEncoder:
    """Return a matcher's `text` if it answers for itself, else an encoder with the usual answers.

    So that a matcher may have any module there, or None.
    """
    return module if isinstance(module, TextEncoder) else TextEncoder()


class GRUText(TextEncoder):
    """Embedding -> dropout -> GRU; both directions are averaged when bidirectional.

    Captions are packed, so the backward direction starts at the true last token.

    Args:
        vocab_size: rows V of the embedding table.
        word_dim: width of the embedding.
        embed_dim: width D of the output.
        num_layers: stacked GRU layers.
        bidirectional: average a forward and a backward GRU.
        dropout: on the embeddings, training only (SGRAF, CVSE: 0.4).
    """

    needs_words = True

    def __init__(
        self,
        vocab_size: int,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        bidirectional: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.word_dim = word_dim
        self.embed = nn.Embedding(vocab_size, word_dim)
        nn.init.uniform_(self.embed.weight, -0.1, 0.1)
        self.dropout = nn.Dropout(dropout)
        self.rnn = nn.GRU(
            word_dim, embed_dim, num_layers, batch_first=True, bidirectional=bidirectional
        )

    def start_from(self, vectors: Tensor) -> None:
        """Take pretrained word vectors (V, word_dim)."""
        with torch.no_grad():
            self.embed.weight.copy_(vectors)

    def pool(self, words: Tensor, mask: Tensor) -> Tensor:
        """Return the state (C, D) at the last word, where the forward GRU has read them all."""
        return last_state(words, mask.sum(1))

    def forward(self, captions: Captions) -> tuple[Tensor, Tensor]:
        """Word states (C, L, D), zero beyond each caption's length, and the mask (C, L).

        Raises:
            ValueError: a caption of no words at all.
        """
        if 0 in captions.lengths:
            raise ValueError(
                f"caption {captions.lengths.index(0)} of the batch has no known word, and its "
                "vocabulary has neither markers nor <unk>; a GRU needs at least one"
            )
        size = captions.tokens.shape[1]
        words = self.dropout(self.embed(captions.tokens))  # (C, L, word_dim)
        packed = pack_padded_sequence(
            words, torch.tensor(captions.lengths), batch_first=True, enforce_sorted=False
        )
        states: PackedSequence = self.rnn(packed)[0]
        if self.rnn.bidirectional:
            forward, backward = states.data.chunk(2, dim=-1)
            states = states._replace(data=(forward + backward) / 2)
        return padded(states, size), length_mask(captions.lengths, size, words.device)


def padded(states: PackedSequence, size: int) -> Tensor:
    """(C, L, D) with zeros behind each of C sequences, L = size.

    What `pad_packed_sequence` gives, but its gradient copies the whole tensor again for each step.
    """
    assert states.sorted_indices is not None
    steps = torch.arange(len(states.batch_sizes)).repeat_interleave(states.batch_sizes)  # (W,)
    starts = states.batch_sizes.cumsum(0) - states.batch_sizes
    order = torch.arange(len(steps)) - starts[steps]  # which of the sequences, longest first
    steps, order = (x.to(states.data.device, non_blocking=True) for x in (steps, order))
    rows = states.sorted_indices[order] * size + steps
    count, width = len(states.sorted_indices), states.data.shape[1]
    flat = states.data.new_zeros(count * size, width).index_copy_(0, rows, states.data)
    return flat.view(count, size, width)


# Options of a transformer by which a configuration could name code to download.
CODE = ("auto_map", "attn_implementation", "_attn_implementation", "custom_pipelines")


class BertText(TextEncoder):
    """A pretrained transformer followed by a linear map to D.

    Args:
        embed_dim: width D of the output.
        path: local folder or hub name of the pretrained model; not needed when `config` is given.
        finetune: train the transformer too, otherwise only the linear map learns.
        lr_scale: learning rate of the transformer relative to the rest.
        config: the transformer's configuration; builds it without pretrained weights, which a
            checkpoint then fills.
        dropout: on the transformer's output, training only.
    """

    needs_words = True
    pretrained = True

    def __init__(
        self,
        embed_dim: int = 1024,
        path: str | None = None,
        finetune: bool = False,
        lr_scale: float = 0.1,
        config: dict[str, Any] | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        from transformers import AutoConfig, AutoModel

        if config is not None:
            options = {key: value for key, value in config.items() if key not in CODE}
            kind = options.pop("model_type")
            known = AutoConfig.for_model(kind, **options)
            self.bert = AutoModel.from_config(known, trust_remote_code=False)
        elif path is not None:
            self.bert = AutoModel.from_pretrained(path, trust_remote_code=False)
        else:
            raise ValueError("text=bert needs model.text.path, a local folder or a hub name")
        self.lr_scale = lr_scale
        self.finetune = finetune
        self.bert.requires_grad_(finetune).train(finetune)  # pretrained ones arrive in eval mode
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Linear(self.bert.config.hidden_size, embed_dim)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the transformer as a group with its own learning rate."""
        return [{"name": "bert", "params": list(self.bert.parameters()), "lr_scale": self.lr_scale}]

    def saved_arguments(self) -> dict[str, Any]:
        """Return the transformer's configuration, so that loading needs no folder or hub."""
        return {"config": self.bert.config.to_dict()}

    def train(self, mode: bool = True) -> "BertText":
        """A frozen transformer stays in eval mode: its dropout must not act."""
        super().train(mode)
        if not self.finetune:
            self.bert.eval()
        return self

    def forward(self, captions: Captions) -> tuple[Tensor, Tensor]:
        """Word-piece states (C, L, D), zero beyond each caption's length, and the mask (C, L)."""
        mask = length_mask(captions.lengths, captions.tokens.shape[1], captions.tokens.device)
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
            states = self.bert(input_ids=captions.tokens, attention_mask=mask.long())[0]
        words = self.project(self.dropout(states))  # (C, L, D)
        return words.masked_fill(~mask[..., None], 0.0), mask


def text_encoder(
    text: dict[str, Any],
    vocab_size: int,
    embed_dim: int,
    word_dim: int = 300,
    num_layers: int = 1,
    bidirectional: bool = True,
    dropout: float = 0.0,
) -> GRUText | BertText:
    """The word encoder that `text["name"]` asks for: "gru" or "bert".

    The GRU takes its sizes from the matcher's own arguments; the other keys of `text` are the
    arguments of `BertText`.

    Raises:
        ValueError: another name.
    """
    options = {key: value for key, value in text.items() if key != "name"}
    if text["name"] == "gru":
        return GRUText(vocab_size, word_dim, embed_dim, num_layers, bidirectional, dropout)
    if text["name"] == "bert":
        return BertText(embed_dim, dropout=dropout, **options)
    raise ValueError(f"this matcher encodes words with text=gru or text=bert, not {text['name']!r}")
