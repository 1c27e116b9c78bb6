"""The precision of products is chosen by name."""

import pytest
import torch

from itm.utils.devices import precision_context

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [(None, torch.float32), ("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)],
)
def test_a_product_has_the_type_of_the_precision(precision, dtype):
    x = torch.ones(2, 2)
    with precision_context(CPU, precision):
        assert (x @ x).dtype == dtype


def test_none_follows_what_surrounds_and_32_true_does_not():
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with precision_context(CPU, None):
            assert (x @ x).dtype == torch.bfloat16
        with precision_context(CPU, "32-true"):
            assert (x @ x).dtype == torch.float32


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be '32-true', .* got 'bf16'"):
        precision_context(CPU, "bf16")
