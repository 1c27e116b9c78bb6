"""Types of the backbones.

CASC, CHAN, CVSE and SCAN take options in groups and also one by one (`itm.utils.options`). Type
checkers and editors cannot see the second form, so it is written out here; a test compares it with
the constructors.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from itm.layers.cross_attention import CrossAttention
from itm.layers.projection import Norms
from itm.losses.base import LossFunction
from itm.matcher.optimisation import MakeOptimizer, MakeScheduler
from itm.models.casc.attention import TwoWayAttention
from itm.models.casc.casc import CASC as _CASC
from itm.models.casc.label_head import LabelOptions
from itm.models.chan.chan import CHAN as _CHAN
from itm.models.chan.matching import HardAlignment
from itm.models.cvse.consensus import LayerOptions, Levels
from itm.models.cvse.cvse import CVSE as _CVSE
from itm.models.scan import SCAN as _SCAN
from itm.models.sgraf import SGRAF as SGRAF
from itm.models.two_branch import TwoBranchEmbedding as TwoBranchEmbedding
from itm.models.two_branch import TwoBranchSimilarity as TwoBranchSimilarity
from itm.models.vse_infty import VSEInfinity as VSEInfinity
from itm.models.vsepp import VSEPP as VSEPP
from itm.models.vsrn import VSRN as VSRN

__all__: list[str]

class CASC(_CASC):
    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        bidirectional: bool = True,
        *,
        attention: TwoWayAttention = ...,
        direction: str = "both",
        raw_norm: str = "clipped_l2norm",
        t2i_temperature: float = 9.0,
        t2i_aggregation: str = "Mean",
        i2t_temperature: float = 4.0,
        i2t_aggregation: str = "LogSumExp",
        lambda_lse: float = 5.0,
        num_labels: int = 500,
        head: LabelOptions = ...,
        hidden: int = 512,
        label_weight: float = 10.0,
        pos_weight: Sequence[float] | float | str | None = None,
        head_lr_scale: float = 50.0,
        alpha: float = 0.8,
        norms: Norms = ...,
        weight_norm: bool = False,
        normalize_images: bool = True,
        normalize_words: bool = True,
        text: dict[str, Any] | None = None,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ) -> None: ...

class CHAN(_CHAN):
    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        self_attention: bool = True,
        attend_padding: bool = False,
        *,
        matching: HardAlignment = ...,
        coding: str = "VHA",
        pooling: str = "LogSumExp",
        alpha: float = 0.1,
        beta: float = 0.1,
        scale_lse: bool = False,
        normalize_images: bool = True,
        normalize_words: bool = True,
        text: dict[str, Any] | None = None,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ) -> None: ...

class CVSE(_CVSE):
    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        bidirectional: bool = True,
        *,
        num_regions: int = 36,
        num_concepts: int = 300,
        concept_dim: int = 300,
        concept_vectors: np.ndarray | None = None,
        levels: Levels = ...,
        concept_ratio: float = 0.35,
        alpha: float = 0.85,
        eval_alpha: float = 0.85,
        consensus_weight: float = 0.05,
        level_weights: list[float] | None = None,
        kl_weight: float = 2.0,
        fusion: str = "weight_sum",
        layers: LayerOptions = ...,
        no_imgnorm: bool = False,
        use_batchnorm: bool = True,
        activation: str = "tanh",
        dropout: float = 0.4,
        text: dict[str, Any] | None = None,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ) -> None: ...

class SCAN(_SCAN):
    def __init__(
        self,
        vocab_size: int | None = None,
        img_dim: int = 2048,
        word_dim: int = 300,
        embed_dim: int = 1024,
        num_layers: int = 1,
        bidirectional: bool = True,
        *,
        attention: CrossAttention = ...,
        direction: str = "t2i",
        raw_norm: str = "clipped_l2norm",
        temperature: float = 9.0,
        aggregation: str = "Mean",
        lambda_lse: float = 6.0,
        norms: Norms = ...,
        weight_norm: bool = False,
        normalize_images: bool = True,
        normalize_words: bool = True,
        text: dict[str, Any] | None = None,
        loss: LossFunction | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
    ) -> None: ...
