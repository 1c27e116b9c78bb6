"""CASC's attention: SCAN's attention in both directions."""

from dataclasses import dataclass

from itm.layers.cross_attention import CrossAttention
from itm.utils.checks import check_choice


@dataclass(frozen=True)
class TwoWayAttention:
    """Options of attention: words attend to regions (t2i), regions to words (i2t), or both.

    Args:
        direction: "both", "t2i" or "i2t"; a single direction has one global vector and ranks by its
            local score.
        raw_norm: how products are normalised before the softmax, see `CrossAttention`.
        t2i_temperature: temperature of the words' attention (lambda_softmax_avg in the original).
        t2i_aggregation: aggregation of the words' scores.
        i2t_temperature: temperature of the regions' attention (lambda_softmax_lse).
        i2t_aggregation: aggregation of the regions' scores.
        lambda_lse: sharpness of LogSumExp.

    Raises:
        ValueError: the direction is unknown.
    """

    direction: str = "both"
    raw_norm: str = "clipped_l2norm"
    t2i_temperature: float = 9.0
    t2i_aggregation: str = "Mean"
    i2t_temperature: float = 4.0
    i2t_aggregation: str = "LogSumExp"
    lambda_lse: float = 5.0

    def __post_init__(self) -> None:
        check_choice("direction", self.direction, ("both", "t2i", "i2t"))

    @property
    def t2i(self) -> CrossAttention:
        """Return the attention of words to regions."""
        temperature, aggregation = self.t2i_temperature, self.t2i_aggregation
        return CrossAttention("t2i", self.raw_norm, temperature, aggregation, self.lambda_lse)

    @property
    def i2t(self) -> CrossAttention:
        """Return the attention of regions to words."""
        temperature, aggregation = self.i2t_temperature, self.i2t_aggregation
        return CrossAttention("i2t", self.raw_norm, temperature, aggregation, self.lambda_lse)
