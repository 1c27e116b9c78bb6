"""Text encoders: word vectors from tokens, by a GRU over learnt embeddings or a pretrained BERT.

Every encoder takes `Captions` and returns `(words (C, L, D), mask (C, L))`; padded positions are
exact zeros. `text_encoder` builds one from the `text` option of a matcher. `TextEncoder` is the
interface of all text encoders, including those of `itm.layers.sentence`.
"""

from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from itm.batch import Captions
from itm.layers.dropout import Dropout
from itm.layers.functional import full, last_state, length_mask, masked_mean
from itm.layers.gru import run_gru
from itm.layers.packing import by_step
from itm.layers.word_ids import check_lengths, look_up_words


class TextEncoder(nn.Module):
    """Base class of all text encoders, with defaults for what a matcher asks of them.

    Attributes:
        needs_words: reads `Captions.tokens`, so arrays of sentence vectors are rejected.
        needs_vectors: reads `Captions.vectors`, so sentences are rejected.
        pretrained: contains a pretrained transformer.
        word_dim: width of the learnt word embedding, or None.

    Examples:
        >>> from itm.layers import TextEncoder, text_encoder
        >>> encoder = text_encoder({"name": "gru"}, 10, 8, 4, 1, True)
        >>> isinstance(encoder, TextEncoder), encoder.word_dim
        (True, 4)
    """

    needs_words: bool = False
    needs_vectors: bool = False
    pretrained: bool = False
    word_dim: int | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return optimiser groups for parameters with a special learning rate or weight decay.

        See `itm.matcher.Matcher.parameter_groups`; all other parameters join the matcher's groups.
        """
        return []

    def saved_arguments(self) -> dict[str, Any]:
        """Return what a checkpoint must add to the `text` option to rebuild this encoder."""
        return {}

    def pool(self, words: Tensor, mask: Tensor) -> Tensor:
        """Pool the words of each caption into one vector; by default their mean.

        Args:
            words: (C, L, D) word vectors.
            mask: (C, L), True = real word.

        Returns:
            (C, D) float32.
        """
        return masked_mean(full(words), mask)

    def penalty(self) -> dict[str, Tensor]:
        """Compute the encoder's own loss terms: name -> weighted scalar."""
        return {}

    def start_from(self, vectors: Tensor) -> None:
        """Take pretrained word vectors (V, word_dim), see `itm.text.word_vectors.word_vectors`.

        Raises:
            NotImplementedError: the encoder learns no word embedding.
        """
        raise NotImplementedError(f"{type(self).__name__} learns no word embedding")

    def missing_words(self) -> np.ndarray | None:
        """Return initial vectors (V, word_dim) for words without a pretrained vector.

        None = draw from N(0, 1).
        """
        return None


def as_text_encoder(module: Any) -> TextEncoder:
    """Return a matcher's `text` if it is a `TextEncoder`, else a `TextEncoder` with the defaults.

    A matcher may thus use any module as its text encoder, or None.
    """
    return module if isinstance(module, TextEncoder) else TextEncoder()


class GRUText(TextEncoder):
    """Encode words by embedding -> dropout -> GRU; a bidirectional GRU averages its directions.

    Captions are packed, so the backward direction starts at the true last token.

    Args:
        vocab_size: rows V of the embedding table.
        word_dim: width of the embedding.
        embed_dim: width D of the output.
        num_layers: number of stacked GRU layers.
        bidirectional: average a forward and a backward GRU.
        dropout: dropout on the embeddings in training (SGRAF, CVSE: 0.4).

    Examples:
        >>> import torch
        >>> from itm.batch import Captions
        >>> from itm.layers import GRUText
        >>> text = GRUText(vocab_size=10, word_dim=4, embed_dim=8)
        >>> row = torch.arange(1)
        >>> words, mask = text(Captions(torch.tensor([[1, 5, 2]]), (3,), row, row))
        >>> words.shape
        torch.Size([1, 3, 8])
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
        self.dropout = Dropout(dropout)
        self.rnn = nn.GRU(
            word_dim, embed_dim, num_layers, batch_first=True, bidirectional=bidirectional
        )

    def start_from(self, vectors: Tensor) -> None:
        """Take pretrained word vectors (V, word_dim)."""
        with torch.no_grad():
            self.embed.weight.copy_(vectors)

    def pool(self, words: Tensor, mask: Tensor) -> Tensor:
        """Return the state (C, D) at the last word, where the forward GRU has read all words."""
        return last_state(words, mask.sum(1))

    def forward(self, captions: Captions) -> tuple[Tensor, Tensor]:
        """Return word states (C, L, D), zero beyond each caption's length, and the mask (C, L).

        Raises:
            ValueError: a caption has no words, or lengths or ids do not fit.
        """
        check_lengths(captions)
        if 0 in captions.lengths:
            raise ValueError(
                f"caption {captions.lengths.index(0)} of the batch has no known word, but a GRU "
                "needs at least one: use a vocabulary with markers or <unk>, or leave the caption "
                "out"
            )
        tokens, lengths = captions.tokens, captions.lengths
        count, size = tokens.shape
        rows, sizes, _ = by_step(lengths, size, tokens.device)
        words = self.dropout(look_up_words(self.embed, tokens.flatten().index_select(0, rows)))
        states = run_gru(self.rnn, words, sizes)  # (W, D) or (W, 2 D)
        if self.rnn.bidirectional:
            forward, backward = states.chunk(2, dim=-1)
            states = (forward + backward) / 2
        # `pad_packed_sequence` would copy the whole tensor at every time step of its backward.
        flat = states.new_zeros(count * size, states.shape[1]).index_copy_(0, rows, states)
        return flat.view(count, size, -1), length_mask(lengths, size, tokens.device)


@cache
def transformers_release() -> int:
    """Return the first number of the version of transformers; finding it takes milliseconds."""
    return int(version("transformers").partition(".")[0])


def transformer_mask(mask: Tensor) -> Tensor:
    """Turn a mask (C, L) of real tokens into a form that transformers reads without waiting.

    transformers checks whether a (C, L) mask is all True, which waits for the device. From version
    5 on it also accepts values to add to the attention, (C, 1, 1, L), and does not check them.
    """
    if mask.device.type == "cpu" or transformers_release() < 5:
        return mask.long()
    least = torch.finfo(torch.float16).min  # exp() of it is 0, and all precisions can hold it
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, least)[:, None, None]


# Options through which a transformer's configuration could name code to download.
CODE = ("auto_map", "attn_implementation", "_attn_implementation", "custom_pipelines")


class BertText(TextEncoder):
    """Encode word pieces by a pretrained transformer, followed by a linear map to D.

    Args:
        embed_dim: width D of the output.
        path: local folder or hub name of the pretrained model; not needed when `config` is given.
        finetune: train the transformer too; otherwise only the linear map learns.
        lr_scale: learning rate of the transformer relative to the rest.
        config: the transformer's configuration; builds the transformer without pretrained weights,
            to be filled from a checkpoint.
        dropout: dropout on the transformer's output in training.

    Raises:
        ValueError: neither `path` nor `config` is given.

    Examples:
        >>> from itm.models import SCAN
        >>> bert = {"name": "bert", "path": "bert-base-uncased"}
        >>> matcher = SCAN(30522, text=bert)  # doctest: +SKIP
        >>> type(matcher.text).__name__  # doctest: +SKIP
        'BertText'
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
        from transformers import AutoConfig, AutoModel  # late, for start-up time

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
        self.bert.float()  # weights saved in half precision load in half precision
        self.bert.requires_grad_(finetune).train(finetune)  # pretrained models load in eval mode
        for name, parameter in self.bert.named_parameters():
            if "pooler" in name:  # it makes a sentence vector, which is not used
                parameter.requires_grad_(False)
        self.dropout = Dropout(dropout)
        self.project = nn.Linear(self.bert.config.hidden_size, embed_dim)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the transformer as a group with its own learning rate."""
        return [{"name": "bert", "params": list(self.bert.parameters()), "lr_scale": self.lr_scale}]

    def saved_arguments(self) -> dict[str, Any]:
        """Return the transformer's configuration, so loading needs neither folder nor hub."""
        return {"config": self.bert.config.to_dict()}

    def train(self, mode: bool = True) -> "BertText":
        """Set the mode, but keep a frozen transformer in eval mode, without dropout."""
        super().train(mode)
        if not self.finetune:
            self.bert.eval()
        return self

    def forward(self, captions: Captions) -> tuple[Tensor, Tensor]:
        """Return word-piece states (C, L, D), zero at padding, and the mask (C, L).

        Raises:
            ValueError: the lengths do not fit.
        """
        check_lengths(captions)
        mask = length_mask(captions.lengths, captions.tokens.shape[1], captions.tokens.device)
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
            states = self.bert(input_ids=captions.tokens, attention_mask=transformer_mask(mask))[0]
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
    """Build the word encoder named by `text["name"]`: "gru" or "bert".

    The GRU takes its sizes from the matcher's arguments; the other keys of `text` are arguments of
    `BertText`.

    Raises:
        ValueError: the name is unknown.
    """
    options = {key: value for key, value in text.items() if key != "name"}
    if text["name"] == "gru":
        return GRUText(vocab_size, word_dim, embed_dim, num_layers, bidirectional, dropout)
    if text["name"] == "bert":
        return BertText(embed_dim, dropout=dropout, **options)
    raise ValueError(f"this matcher needs text=gru or text=bert, got text={text['name']!r}")
