"""Tables of names, in both directions."""

import pytest
import torch

from itm.published import casc, chan, cvse, scan, sgraf, two_branch, vsrn
from itm.published.tables import gru_arguments, original_names, read_state, write_state
from itm.published.transformer import BERT

TABLE = {
    "fc.weight_g": "image.gain",
    "fc": "image",
    "GCN_{+1}.W.0": "blocks.{}.out",
    "steps.{}.key": "reduce.{}.key",
    "old": None,
}


def states(*names):
    return {name: torch.tensor(float(k)) for k, name in enumerate(names)}


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("fc.weight_g", "image.gain"),  # the first entry that fits
        ("fc.bias", "image.bias"),
        ("fc", "image"),
        ("GCN_1.W.0.weight", "blocks.0.out.weight"),
        ("GCN_12.W.0.bias", "blocks.11.out.bias"),
        ("steps.0.key.weight", "reduce.0.key.weight"),
    ],
)
def test_names_in_both_directions(theirs, ours):
    tensors = read_state(states(theirs), TABLE)
    assert list(tensors) == [ours]
    assert list(write_state(tensors, TABLE)) == [theirs]
    assert original_names([ours], TABLE) == {ours: theirs}


def test_what_is_dropped_and_what_is_unknown():
    found = read_state(states("old.weight", "fc2.weight", "xfc", "GCN_a.W.0"), TABLE, prefix="6.")
    assert list(found) == ["6.fc2.weight", "6.xfc", "6.GCN_a.W.0"]
    assert write_state(states("head.weight", "imagery"), TABLE) == {}


@pytest.mark.parametrize(
    "tables",
    [
        [scan.IMAGE, scan.TEXT, casc.HEAD],
        [chan.IMAGE, chan.GRU],
        [chan.IMAGE, BERT],
        sgraf.TABLES,
        vsrn.TABLES,
        cvse.TABLES,
        [two_branch.TENSORFLOW],
        [two_branch.PORT],
        [two_branch.CITE],
    ],
)
def test_no_two_names_of_a_family_mean_the_same(tables):
    ours = [name for table in tables for name in table.values() if name is not None]
    assert len(set(ours)) == len(ours)


def test_sizes_of_a_gru():
    text = {"embed.weight": torch.zeros(7, 3)}
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):
        text |= {
            f"rnn.weight_ih_{suffix}": torch.zeros(6, 3),
            f"rnn.bias_ih_{suffix}": torch.zeros(6),
        }
    sizes = {"vocab_size": 7, "word_dim": 3, "num_layers": 2, "bidirectional": True}
    assert gru_arguments(text) == sizes
    with pytest.raises(KeyError, match="embed.weight"):
        gru_arguments({})
