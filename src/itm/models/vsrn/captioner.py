"""The captioning branch of VSRN: a sequence-to-sequence model that writes an image's sentence.

It makes the region vectors hold what the sentence says (Li et al., Visual Semantic Reasoning for
Image-Text Matching, ICCV 2019, section 3.4; the network is S2VT's, Venugopalan et al. 2015, with
attention). Retrieval does not use it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from itm.batch import Captions
from itm.layers.functional import full, last_state, masked_softmax
from itm.text.vocabulary import START


class Memory(NamedTuple):
    """What the decoder attends to.

    Attributes:
        states: (N, R, H) encoder states.
        keys: (N, R, H) their half of the attention's first layer, the same at every step.
        mask: (N, R) bool, True = real region.
    """

    states: Tensor
    keys: Tensor
    mask: Tensor

    def take(self, rows: Tensor | slice) -> "Memory":
        """The given rows."""
        return Memory(*(x[rows] for x in self))


def teacher(captions: Captions, max_len: int) -> tuple[PackedSequence, PackedSequence]:
    """What the decoder reads and what it should say next, packed by step.

    A caption w_1 ... w_n (markers included) is read as w_1 ... w_n and answered by
    w_2 ... w_n, pad: the pad behind the end marker is learnt too. A caption of more than `max_len`
    tokens is cut there, its last token replaced by its end marker; at most `max_len` - 1 steps are
    taken, so that a caption that fills `max_len` has no pad to say.

    Args:
        captions: C captions.
        max_len: most tokens of a caption, markers included.

    Returns:
        Inputs and targets with the same packing: step t holds the captions that are longer than t,
        the longest caption first.
    """
    lengths = torch.tensor(captions.lengths)
    ends = lengths.to(captions.tokens.device)
    labels = F.pad(captions.tokens, (0, 1))[:, :max_len]  # (C, min(L + 1, max_len))
    if labels.shape[1] == max_len:
        final = last_state(captions.tokens, ends)
        cut = torch.where(ends >= max_len, final, labels[:, -1])
        labels = torch.cat([labels[:, :-1], cut[:, None]], dim=1)
    steps = lengths.clamp_max(max_len - 1)
    inputs, targets = (
        pack_padded_sequence(x, steps, batch_first=True, enforce_sorted=False)
        for x in (labels[:, :-1], labels[:, 1:])
    )
    return inputs, targets


class Captioner(nn.Module):
    """Regions -> GRU encoder -> GRU decoder with attention -> words.

    At each step, with O_n the encoder states and h the decoder's:
    alpha = softmax_n(u^T tanh(W [O_n; h] + b)), h' = GRU([embedding; sum_n alpha_n O_n], h), and
    the words' logits are a linear map of h'.

    Exact rearrangements keep it cheap: the half of W that meets O is applied once, a caption leaves
    the batch when it has been said, and logits are computed once for all states.

    Args:
        vocab_size: V words.
        region_dim: width of the region vectors.
        hidden_dim: width H of both GRUs and of the attention.
        word_dim: width of the decoder's own word embedding.
        max_len: most tokens of a caption, markers included.
        dropout: on the projected regions and on the decoder's input, training only.
    """

    def __init__(
        self,
        vocab_size: int,
        region_dim: int = 2048,
        hidden_dim: int = 512,
        word_dim: int = 300,
        max_len: int = 60,
        dropout: float = 0.2,
    ):
        super().__init__()
        if max_len < 3:
            raise ValueError(f"max_len {max_len} leaves no word between <start> and <end>")
        self.max_len = max_len
        self.project = nn.Linear(region_dim, hidden_dim)
        self.encoder = nn.GRU(hidden_dim, hidden_dim, batch_first=True)
        self.embed = nn.Embedding(vocab_size, word_dim)
        self.attend = nn.Linear(2 * hidden_dim, hidden_dim)  # [encoder state; decoder state]
        self.energy = nn.Linear(hidden_dim, 1, bias=False)
        self.decoder = nn.GRUCell(word_dim + hidden_dim, hidden_dim)  # [word; context]
        self.out = nn.Linear(hidden_dim, vocab_size)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_normal_(self.project.weight)
        nn.init.xavier_normal_(self.out.weight)

    def encode(self, regions: Tensor, mask: Tensor) -> tuple[Memory, Tensor]:
        """Regions (I, R, D), mask (I, R) -> memory and first decoder state (I, H)."""
        states, _ = self.encoder(self.dropout(self.project(regions)))  # (I, R, H)
        of_regions, _ = self.attend.weight.chunk(2, dim=1)
        keys = F.linear(states, of_regions, self.attend.bias)  # (I, R, H)
        return Memory(states, keys, mask), last_state(states, mask.sum(1))

    def step(self, words: Tensor, hidden: Tensor, memory: Memory) -> Tensor:
        """Read one word each: words (N,), states (N, H) -> states (N, H)."""
        _, of_state = self.attend.weight.chunk(2, dim=1)
        query = F.linear(hidden, of_state)[:, None]  # (N, 1, H)
        energy = self.energy(torch.tanh(memory.keys + query)).squeeze(-1)  # (N, R)
        weights = masked_softmax(energy, memory.mask).to(memory.states.dtype)
        context = (weights[:, None] @ memory.states).squeeze(1)  # (N, H)
        read = torch.cat([self.embed(words), context], dim=-1)
        return self.decoder(self.dropout(read), hidden)

    def logits(self, regions: Tensor, mask: Tensor, captions: Captions) -> tuple[Tensor, Tensor]:
        """Teacher forcing: what is said after each true word, and what should be.

        Returns:
            Logits (N, V) and targets (N,), packed by step as in `teacher`, where N is the sum of
            all steps.
        """
        inputs, targets = teacher(captions, self.max_len)
        assert inputs.sorted_indices is not None
        image = captions.image[inputs.sorted_indices.to(captions.image.device)]  # longest first
        memory, hidden = self.encode(regions, mask)  # once per image, whatever its captions
        memory, hidden = memory.take(image), hidden[image]
        sizes, states = inputs.batch_sizes.tolist(), []
        for words, size in zip(inputs.data.split(sizes), sizes, strict=True):
            hidden = self.step(words, hidden[:size], memory.take(slice(size)))
            states.append(hidden)
        return self.out(torch.cat(states)), targets.data

    def forward(self, regions: Tensor, mask: Tensor, captions: Captions) -> Tensor:
        """Loss: -log p of each caption given its image, summed over words, mean over captions.

        Args:
            regions: (I, R, D).
            mask: (I, R).
            captions: C captions with `image`, the rows of their images.
        """
        logits, targets = self.logits(regions, mask, captions)
        return F.cross_entropy(full(logits), targets, reduction="sum") / len(captions.lengths)

    @torch.no_grad()
    def greedy(self, regions: Tensor, mask: Tensor, start: int = START) -> tuple[Tensor, Tensor]:
        """The most likely next word, again and again, `max_len` - 2 times without stopping.

        Args:
            regions: (I, R, D).
            mask: (I, R).
            start: id of the start marker.

        Returns:
            Ids and their log-probabilities, both (I, max_len - 2).
        """
        memory, hidden = self.encode(regions, mask)
        words = torch.full((len(regions),), start, device=regions.device)
        said = []
        for _ in range(self.max_len - 2):
            hidden = self.step(words, hidden, memory)
            best, words = torch.log_softmax(full(self.out(hidden)), dim=-1).max(-1)
            said.append((words, best))
        ids, scores = (torch.stack(x, dim=1) for x in zip(*said, strict=True))
        return ids, scores
