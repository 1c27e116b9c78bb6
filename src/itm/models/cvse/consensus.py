"""Parts of CVSE: pooling by self-attention, the concept graph, and mixtures of concepts.

Wang, Zhang, Ji, Pang, Ma: Consensus-Aware Visual-Semantic Embedding for Image-Text Matching,
ECCV 2020.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from itm.layers.dropout import Dropout
from itm.layers.functional import for_products, full, full_precision, l2norm, masked_softmax
from itm.layers.weights import joined, linear_maps
from itm.text.concepts import Concepts
from itm.utils.checks import check_choice

EPS = 1e-12  # added to norms
SHARPNESS = 10.0  # factor in the softmax over concepts
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


@dataclass(frozen=True)
class Levels:
    """How the instance and consensus levels are mixed, scored and trained.

    Args:
        concept_ratio: share of a caption's own concept words in its distribution.
        alpha: weight of the instance vector in training.
        eval_alpha: weight of the instance vector at test time.
        consensus_weight: weight w of the consensus level in the test score.
        level_weights: weights of the ranking losses of the fused, instance and consensus levels;
            None = [3, 5, 1].
        kl_weight: weight of the KL divergence, summed over the batch.
        fusion: "weight_sum", v2 = l2(alpha v0 + (1 - alpha) v1), or "multiple", v2 = l2(v0 * v1).

    Raises:
        ValueError: the fusion is unknown.
    """

    concept_ratio: float = 0.35
    alpha: float = 0.85
    eval_alpha: float = 0.85
    consensus_weight: float = 0.05
    level_weights: list[float] | None = None
    kl_weight: float = 2.0
    fusion: str = "weight_sum"

    def __post_init__(self) -> None:
        check_choice("fusion", self.fusion, ("weight_sum", "multiple"))


@dataclass(frozen=True)
class LayerOptions:
    """Options of the layers of both levels.

    Args:
        no_imgnorm: do not normalise the region vectors.
        use_batchnorm: use batch norms on the image side and in the consensus level.
        activation: "tanh" or "sigmoid".
        dropout: dropout on word embeddings and in the attention.

    Raises:
        ValueError: the activation is unknown.
    """

    no_imgnorm: bool = False
    use_batchnorm: bool = True
    activation: str = "tanh"
    dropout: float = 0.4

    def __post_init__(self) -> None:
        check_choice("activation", self.activation, tuple(ACTIVATIONS))


class SelfAttention(nn.Module):
    """Pool parts into one vector: v = l2(sum_p w_p x_p), w = softmax_p(f3(f1(x_p) * f2(m))).

    f1 and f2 are linear maps with activation and dropout; m is the mean of the parts.

    Args:
        embed_dim: width D.
        activation: "tanh" or "sigmoid".
        dropout: dropout after the activations.
        num_parts: R, for a batch norm per position of a part and one per column of the query;
            None = no batch norms.
        bounded: apply activation and dropout after f3, too.
    """

    def __init__(
        self,
        embed_dim: int,
        activation: str = "tanh",
        dropout: float = 0.4,
        num_parts: int | None = None,
        bounded: bool = False,
    ):
        super().__init__()
        self.part = nn.Linear(embed_dim, embed_dim)
        self.part_norm = nn.Identity() if num_parts is None else nn.BatchNorm1d(num_parts)
        self.query = nn.Linear(embed_dim, embed_dim)
        self.query_norm = nn.Identity() if num_parts is None else nn.BatchNorm1d(embed_dim)
        self.score = nn.Linear(embed_dim, 1)
        self.gate = nn.Sequential(ACTIVATIONS[activation](), Dropout(dropout))
        self.bounded = bounded

    def forward(self, parts: Tensor, mean: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Pool parts (N, P, D) with mean (N, D) and mask (N, P): vector (N, D), weights (N, P)."""
        of_part, of_mean = linear_maps(self.part, self.query)
        part = self.gate(self.part_norm(of_part(parts)))  # (N, P, D)
        query = self.gate(self.query_norm(of_mean(mean)))  # (N, D)
        # Multiply the query into the score's weight, which avoids a second (N, P, D) tensor.
        score = (part @ (query * self.score.weight).unsqueeze(-1)).squeeze(-1) + self.score.bias
        if self.bounded:
            score = self.gate(score)
        return self._pool(parts, score, mask)

    @staticmethod
    @full_precision
    def _pool(parts: Tensor, score: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        weights = masked_softmax(score, mask)  # (N, P)
        pooled = (weights.unsqueeze(1) @ full(parts)).squeeze(1)  # (N, D)
        return l2norm(pooled, eps=EPS), weights


class ConceptGraph(nn.Module):
    """Compute concept vectors by graph convolution: X = l2(A' leaky(A' Z W1) W2).

    Z are the concepts' word vectors and A' is the normalised graph; the matcher sets both buffers
    from an `itm.text.concepts.Concepts`.

    Args:
        num_concepts: K.
        concept_dim: width G of the word vectors.
        embed_dim: width D.
    """

    def __init__(self, num_concepts: int, concept_dim: int, embed_dim: int):
        super().__init__()
        self.first = _weight(concept_dim, embed_dim // 2)
        self.second = _weight(embed_dim // 2, embed_dim)
        # Without word vectors, concepts have fixed random vectors, the same in every run.
        noise = np.random.default_rng(0).standard_normal((num_concepts, concept_dim))
        self.register_buffer("vectors", torch.from_numpy(noise).float())
        self.register_buffer("adjacency", torch.eye(num_concepts))

    vectors: Tensor
    adjacency: Tensor

    def fill(self, concepts: Concepts, given: np.ndarray | None = None) -> None:
        """Take the graph and the word vectors of a concept vocabulary.

        Args:
            concepts: K concepts.
            given: word vectors (K, G) in place of the vocabulary's.

        Raises:
            ValueError: the number of concepts is not K, or the vectors are not G wide.
        """
        size, width = self.vectors.shape
        if len(concepts) != size:
            raise ValueError(f"{len(concepts)} concepts for a matcher with num_concepts={size}")
        vectors = concepts.vectors if given is None else np.asarray(given, np.float32)
        if vectors is not None:
            if vectors.shape[1] != width:
                raise ValueError(
                    f"the concepts' word vectors are {vectors.shape[1]} wide, but the matcher has "
                    f"concept_dim={width}: set concept_dim={vectors.shape[1]}"
                )
            self.vectors.copy_(torch.from_numpy(vectors))
        if concepts.counts is not None and concepts.adjacency is not None:
            counts, together = map(torch.from_numpy, (concepts.counts, concepts.adjacency))
            self.adjacency.copy_(graph_from_counts(counts, together))

    def forward(self) -> Tensor:
        """Compute X (K, D) with unit rows."""
        graph = for_products(normalised(self.adjacency))
        first, second = joined((self.first,), (self.second,))
        hidden = nn.functional.leaky_relu(graph @ (self.vectors @ first), 0.2)  # (K, D / 2)
        return l2norm(graph @ (hidden @ second), eps=EPS)


class Consensus(nn.Module):
    """Compute a vector's distribution over concepts: p = softmax_c(10 f3(f1(X_c) * f2(v))).

    Args:
        embed_dim: width D.
        activation: "tanh" or "sigmoid".
        dropout: used only by "sigmoid" without batch norm, in place of the activation.
        use_batchnorm: use batch norms over the D columns in f1 and f2.
    """

    def __init__(self, embed_dim: int, activation: str, dropout: float, use_batchnorm: bool):
        super().__init__()
        self.concept = nn.Linear(embed_dim, embed_dim)
        self.concept_norm = nn.BatchNorm1d(embed_dim) if use_batchnorm else nn.Identity()
        self.query = nn.Linear(embed_dim, embed_dim)
        self.query_norm = nn.BatchNorm1d(embed_dim) if use_batchnorm else nn.Identity()
        self.score = nn.Linear(embed_dim, 1)
        # In this combination only, the released code has dropout in place of the activation.
        linear = activation == "sigmoid" and not use_batchnorm
        self.gate = Dropout(dropout) if linear else ACTIVATIONS[activation]()

    def forward(self, vectors: Tensor, concepts: Tensor) -> Tensor:
        """Compute log-probabilities (N, K) of vectors (N, D) over concepts (K, D)."""
        of_concept, of_vector = linear_maps(self.concept, self.query)
        concept = self.gate(self.concept_norm(of_concept(concepts)))  # (K, D)
        query = self.gate(self.query_norm(of_vector(vectors)))  # (N, D)
        return self._log_softmax(concept, query)

    @full_precision
    def _log_softmax(self, concept: Tensor, query: Tensor) -> Tensor:
        # sum_d w_d q_nd s_kd as one matrix product instead of an (N, K, D) tensor
        scores = (full(query) * self.score.weight) @ full(concept).T + self.score.bias  # (N, K)
        return (SHARPNESS * scores).log_softmax(-1)


@full_precision
def mix_labels(log_probabilities: Tensor, labels: Tensor | None, ratio: float) -> Tensor:
    """Compute the log of ratio softmax(10 labels) + (1 - ratio) p; (N, K) -> (N, K).

    Log space avoids -inf times 0 for zero probabilities or a zero ratio. Without labels their share
    is uniform, as for a caption without concept words.
    """
    if labels is None:
        labels = torch.zeros_like(log_probabilities)
    given = (SHARPNESS * labels).log_softmax(-1)
    return torch.logaddexp(given + _log(ratio), log_probabilities + _log(1 - ratio))


@full_precision
def mixture(log_probabilities: Tensor, concepts: Tensor) -> Tensor:
    """Compute l2(sum_c p_c X_c), (N, D), from log p (N, K) and unit concepts (K, D)."""
    return l2norm(log_probabilities.exp() @ full(concepts), eps=EPS)


def graph_from_counts(counts: Tensor, together: Tensor) -> Tensor:
    """Compute A (K, K) from word counts and co-occurrence (paper, section 3.1, equations 1 to 3).

    P = together / counts (per row), scaled to E = 5^(P - 0.02) - 5^(-0.02), binarised at 0.3 to B,
    and re-weighted: A = 0.25 B / (column sums of B) + I.

    Args:
        counts: (K,) number of occurrences of each concept.
        together: (K, K) number of captions with both concepts; the diagonal is zero.
    """
    likely = together.double() / counts.double().clamp_min(1)[:, None]
    scaled = 5 ** (likely - 0.02) - 5**-0.02
    edges = (scaled >= 0.3).double()
    shared = 0.25 * edges / (edges.sum(0) + 1e-6)
    return shared + torch.eye(len(counts), dtype=torch.double, device=counts.device)


def normalised(adjacency: Tensor) -> Tensor:
    """Compute A'_ij = d_i A_ji d_j, (K, K), d = (row sums of A)^(-1/2); note the transpose."""
    scale = adjacency.sum(1).rsqrt()
    return scale[:, None] * adjacency.T * scale[None, :]


def _weight(rows: int, columns: int) -> nn.Parameter:
    """Draw a weight uniformly in +-1 / sqrt(columns)."""
    bound = 1 / math.sqrt(columns)
    return nn.Parameter(torch.empty(rows, columns).uniform_(-bound, bound))


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
