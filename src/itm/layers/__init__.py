"""Blocks that several backbones share."""

from typing import TYPE_CHECKING

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "functional": [
            "distances",
            "full",
            "full_precision",
            "global_vector",
            "l2norm",
            "last_state",
            "length_mask",
            "masked_mean",
            "masked_softmax",
            "order_scores",
            "xavier_",
        ],
        "text": ["BertText", "GRUText", "TextEncoder", "text_encoder"],
        "sentence": ["sentence_encoder"],
        "cross_attention": ["CrossAttention"],
        "gaussian": ["csd", "csd_vectors", "total_variance", "wasserstein"],
        "gpo": ["GPO"],
    },
)

if TYPE_CHECKING:
    from itm.layers.cross_attention import CrossAttention as CrossAttention
    from itm.layers.functional import distances as distances
    from itm.layers.functional import full as full
    from itm.layers.functional import full_precision as full_precision
    from itm.layers.functional import global_vector as global_vector
    from itm.layers.functional import l2norm as l2norm
    from itm.layers.functional import last_state as last_state
    from itm.layers.functional import length_mask as length_mask
    from itm.layers.functional import masked_mean as masked_mean
    from itm.layers.functional import masked_softmax as masked_softmax
    from itm.layers.functional import order_scores as order_scores
    from itm.layers.functional import xavier_ as xavier_
    from itm.layers.gaussian import csd as csd
    from itm.layers.gaussian import csd_vectors as csd_vectors
    from itm.layers.gaussian import total_variance as total_variance
    from itm.layers.gaussian import wasserstein as wasserstein
    from itm.layers.gpo import GPO as GPO
    from itm.layers.sentence import sentence_encoder as sentence_encoder
    from itm.layers.text import BertText as BertText
    from itm.layers.text import GRUText as GRUText
    from itm.layers.text import TextEncoder as TextEncoder
    from itm.layers.text import text_encoder as text_encoder
