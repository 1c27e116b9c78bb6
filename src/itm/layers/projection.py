"""Project region features into the joint space, with unit vectors where they are asked for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from itm.layers.functional import xavier_


@dataclass(frozen=True)
class Norms:
    """Options of normalisation.

    Args:
        weight_norm: parametrise the region projection as one gain times a direction.
        normalize_images: scale region vectors to unit length.
        normalize_words: scale word vectors to unit length.
    """

    weight_norm: bool = False
    normalize_images: bool = True
    normalize_words: bool = True


def region_projection(img_dim: int, embed_dim: int, weight_norm: bool = False) -> nn.Linear:
    """Build a linear map F -> D; with `weight_norm` its weight is g V / ||V|| with a scalar g."""
    if weight_norm:
        return nn.utils.parametrizations.weight_norm(nn.Linear(img_dim, embed_dim), dim=-1)
    return xavier_(nn.Linear(img_dim, embed_dim))
