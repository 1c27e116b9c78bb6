"""VSRN's captioning branch: a sequence-to-sequence model that generates an image's sentence.

It trains the region vectors to represent the content of the sentence (Li et al., Visual Semantic
Reasoning for Image-Text Matching, ICCV 2019, section 3.4; the network is S2VT, Venugopalan et al.
2015, with attention). Retrieval does not use it.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from itm.batch import Captions
from itm.layers.dropout import Dropout, factors
from itm.layers.functional import for_products, full, last_state, send
from itm.layers.gru import states_of
from itm.layers.packing import by_step
from itm.layers.weights import joined
from itm.models.vsrn.decoder import Decode
from itm.text.vocabulary import START


class Memory(NamedTuple):
    """What the decoder attends to.

    Attributes:
        states: (N, R, H) encoder states, zero at padding.
        keys: (N, R, H) what they add to the attention's first layer, the same at every step.
        shut: (N, R) added to the energies: 0 for real regions, -inf for padding.
    """

    states: Tensor
    keys: Tensor
    shut: Tensor

    def take(self, rows: Tensor) -> "Memory":
        """Select rows."""
        return Memory(*(x[rows] for x in self))


class Weights(NamedTuple):
    """The captioner's weights in the type of the products.

    Attributes:
        project: (H, D) and its bias.
        attend: (H, 2 H) [encoder state; decoder state], and its bias.
        of_inputs: (3 H, word_dim + H) [word; context] of the decoder's gates r, z, n; its bias.
        of_state: (3 H, H) of the decoder's gates r, z, n; its bias.
        energy: (1, H).
        out: (V, H) and its bias.
    """

    project: Tensor
    project_bias: Tensor
    attend: Tensor
    attend_bias: Tensor
    of_inputs: Tensor
    inputs_bias: Tensor
    of_state: Tensor
    state_bias: Tensor
    energy: Tensor
    out: Tensor
    out_bias: Tensor


def teacher(captions: Captions, max_len: int) -> tuple[PackedSequence, PackedSequence]:
    """Prepare the decoder's inputs and targets for teacher forcing, packed by step.

    For a caption w_1 ... w_n (markers included) the inputs are w_1 ... w_n and the targets are
    w_2 ... w_n, pad; the pad after the end marker is learnt, too. A caption of more than `max_len`
    tokens is cut and its last token replaced by the end marker. There are at most `max_len` - 1
    steps, so a caption of `max_len` tokens has no pad as target.

    Args:
        captions: C captions.
        max_len: maximum number of tokens of a caption, markers included.

    Returns:
        Inputs and targets with the same packing: step t holds the captions longer than t, longest
        first.
    """
    device = captions.tokens.device
    labels = F.pad(captions.tokens, (0, 1))[:, :max_len]  # (C, min(L + 1, max_len))
    if labels.shape[1] == max_len:
        ends = send(torch.tensor(captions.lengths), device)
        final = last_state(captions.tokens, ends)
        cut = torch.where(ends >= max_len, final, labels[:, -1])
        labels = torch.cat([labels[:, :-1], cut[:, None]], dim=1)
    steps = [min(length, max_len - 1) for length in captions.lengths]
    rows, sizes, order = by_step(steps, labels.shape[1], device)
    inputs, targets = (labels.flatten().index_select(0, x) for x in (rows, rows + 1))
    packed = PackedSequence(inputs, sizes, order)
    return packed, PackedSequence(targets, sizes, order, packed.unsorted_indices)


class Captioner(nn.Module):
    """Regions -> GRU encoder -> GRU decoder with attention -> words.

    At each step, with O_n the encoder states and h the decoder's:
    alpha = softmax_n(u^T tanh(W [O_n; h] + b)), h' = GRU([embedding; sum_n alpha_n O_n], h), and
    the words' logits are a linear map of h'.

    Three exact rearrangements reduce the cost: the half of W that acts on O is applied once, a
    caption leaves the batch after its last step, and the logits of all states are computed at once.

    Args:
        vocab_size: number V of words.
        region_dim: width of the region vectors.
        hidden_dim: width H of both GRUs and of the attention.
        word_dim: width of the decoder's own word embedding.
        max_len: maximum number of tokens of a caption, markers included.
        dropout: dropout on the projected regions and on the decoder's input in training.

    Raises:
        ValueError: `max_len` is below 3.
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
            raise ValueError(f"max_len must be at least 3 (<start>, a word, <end>), got {max_len}")
        self.max_len = max_len
        self.project = nn.Linear(region_dim, hidden_dim)
        self.encoder = nn.GRU(hidden_dim, hidden_dim, batch_first=True)
        self.embed = nn.Embedding(vocab_size, word_dim)
        self.attend = nn.Linear(2 * hidden_dim, hidden_dim)  # [encoder state; decoder state]
        self.energy = nn.Linear(hidden_dim, 1, bias=False)
        self.decoder = nn.GRUCell(word_dim + hidden_dim, hidden_dim)  # [word; context]
        self.out = nn.Linear(hidden_dim, vocab_size)
        self.dropout = Dropout(dropout)
        nn.init.xavier_normal_(self.project.weight)
        nn.init.xavier_normal_(self.out.weight)

    def weights(self) -> Weights:
        """Bring all weights but the encoder's into the type of the products at once."""
        cell = self.decoder
        layers = (self.project.weight, self.project.bias, self.attend.weight, self.attend.bias)
        gates = (cell.weight_ih, cell.bias_ih, cell.weight_hh, cell.bias_hh)
        tensors = (*layers, *gates, self.energy.weight, self.out.weight, self.out.bias)
        return Weights(*joined(*((x,) for x in tensors)))

    def encode(
        self, regions: Tensor, mask: Tensor, weights: Weights | None = None
    ) -> tuple[Memory, Tensor]:
        """Encode regions (I, R, D), mask (I, R) to a memory and the first decoder state (I, H)."""
        weights = weights or self.weights()
        projected = self.dropout(F.linear(regions, weights.project, weights.project_bias))
        states = states_of(self.encoder, projected)  # (I, R, H)
        of_regions = weights.attend[:, : states.shape[-1]]
        keys = F.linear(states, of_regions, weights.attend_bias)  # (I, R, H)
        last = last_state(states, mask.sum(1))
        hole = ~mask
        states = for_products(states.masked_fill(hole[..., None], 0))
        # Without real regions, all zero states are attended to.
        closed = hole & mask.any(1, keepdim=True)
        shut = torch.zeros_like(mask, dtype=full(keys).dtype).masked_fill(closed, float("-inf"))
        return Memory(states, keys, shut), last

    def of_state(self) -> Tensor:
        """Return the half of the attention's first layer that acts on the decoder's state, once."""
        return for_products(self.attend.weight.chunk(2, dim=1)[1])

    def step(self, words: Tensor, hidden: Tensor, memory: Memory, of_state: Tensor) -> Tensor:
        """Advance N decoders by one word.

        Args:
            words: (N, word_dim) embeddings.
            hidden: (N, H) states.
            memory: of N images.
            of_state: from the method of that name.

        Returns:
            (N, H) states.
        """
        query = F.linear(hidden, of_state)[:, None]  # (N, 1, H)
        energy = full(self.energy(torch.tanh(memory.keys + query)).squeeze(-1))  # (N, R)
        weights = torch.softmax(energy + memory.shut, -1).to(memory.states.dtype)
        context = (weights[:, None] @ memory.states).squeeze(1)  # (N, H)
        return self.decoder(torch.cat([words, context], dim=-1), hidden)

    def logits(self, regions: Tensor, mask: Tensor, captions: Captions) -> tuple[Tensor, Tensor]:
        """Compute logits by teacher forcing, and their targets.

        Returns:
            Logits (N, V) and targets (N,), packed by step as in `teacher`; N is the total number
            of steps.
        """
        inputs, targets = teacher(captions, self.max_len)
        assert inputs.sorted_indices is not None
        image = captions.image[inputs.sorted_indices]  # longest first
        weights = self.weights()
        memory, hidden = self.encode(regions, mask, weights)  # once per image
        memory, hidden = memory.take(image), hidden[image]
        words = for_products(self.embed(inputs.data))
        kept = None
        if self.training and self.dropout.p:  # drawn once for all steps
            words = self.dropout(words)
            kept = factors(memory.states.new_empty(len(words), hidden.shape[1]), self.dropout.p)
        states = self._decode(words, hidden, memory, kept, inputs.batch_sizes.tolist(), weights)
        return F.linear(states, weights.out, weights.out_bias), targets.data

    def _decode(
        self,
        words: Tensor,
        hidden: Tensor,
        memory: Memory,
        kept: Tensor | None,
        sizes: list[int],
        weights: Weights,
    ) -> Tensor:
        """Run `Decode` with the weights in its order, in the precision of the products."""
        width = hidden.shape[1]
        low = memory.keys.dtype  # of the product in `encode`
        of_word, of_context = weights.of_inputs.split([words.shape[1], width], 1)
        gates = F.linear(words, of_word, weights.inputs_bias)
        opening, renewing = weights.of_state.split([2 * width, width])
        of_state = torch.cat([weights.attend[:, width:], renewing, opening])
        with torch.autocast(words.device.type, enabled=False):
            states: Tensor = Decode.apply(
                sizes,
                gates.to(low),
                full(hidden),
                memory.keys,
                memory.states.to(low),
                memory.shut.to(low),
                None if kept is None else kept.to(low),
                of_state,
                weights.state_bias,
                of_context,
                weights.energy.flatten(),
            )
        return states

    def forward(self, regions: Tensor, mask: Tensor, captions: Captions) -> Tensor:
        """Compute -log p of the captions given their images, sum over words, mean over captions.

        Args:
            regions: (I, R, D).
            mask: (I, R).
            captions: C captions; `image` holds the row of each caption's image.
        """
        logits, targets = self.logits(regions, mask, captions)
        return F.cross_entropy(full(logits), targets, reduction="sum") / len(captions.lengths)

    @torch.no_grad()
    def greedy(self, regions: Tensor, mask: Tensor, start: int = START) -> tuple[Tensor, Tensor]:
        """Decode greedily for exactly `max_len` - 2 steps, without stopping at the end marker.

        Args:
            regions: (I, R, D).
            mask: (I, R).
            start: id of the start marker.

        Returns:
            Ids and their log-probabilities, both (I, max_len - 2).
        """
        memory, hidden = self.encode(regions, mask)
        of_state = self.of_state()
        words = torch.full((len(regions),), start, device=regions.device)
        said = []
        for _ in range(self.max_len - 2):
            hidden = self.step(self.dropout(self.embed(words)), hidden, memory, of_state)
            best, words = torch.log_softmax(full(self.out(hidden)), dim=-1).max(-1)
            said.append((words, best))
        ids, scores = (torch.stack(x, dim=1) for x in zip(*said, strict=True))
        return ids, scores
