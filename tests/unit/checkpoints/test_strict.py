"""Weights fit as a whole or are refused, with the names of what does not fit."""

import json

import pytest
import torch
from torch import nn

import itm
from itm.checkpoints.strict import check_finite, load_strictly
from itm.models import SCAN
from itm.text.vocabulary import SPECIALS, Vocabulary


def build():
    torch.manual_seed(0)
    matcher = SCAN(vocab_size=5, img_dim=4, embed_dim=3, word_dim=2)
    matcher.vocab = Vocabulary([*SPECIALS, "dog"])
    return matcher


WRONG = {
    "missing": (lambda s: s.pop("image.bias"), r"missing image.bias \(3,\)"),
    "unexpected": (lambda s: s.update(odd=torch.ones(2)), r"unexpected odd \(2,\)"),
    "shape": (
        lambda s: s.update({"image.bias": torch.ones(2)}),
        r"image.bias is \(2,\), expected \(3,\)",
    ),
    "whole numbers": (
        lambda s: s.update({"image.bias": torch.ones(3, dtype=torch.int8)}),
        r"image.bias holds torch.int8, expected torch.float32",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_named(name, tmp_path):
    matcher = build()
    spoil, message = WRONG[name]
    tensors = dict(matcher.state_dict())
    spoil(tensors)
    with pytest.raises(ValueError, match=f"here: weights do not fit SCAN:\n  {message}"):
        load_strictly(matcher, tensors, "here")
    checkpoint = {"state_dict": tensors}
    matcher.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=f"a.ckpt: weights do not fit SCAN:\n  {message}"):
        itm.load(tmp_path / "a.ckpt")


def test_what_is_no_tensor_is_named():
    tensors = {**build().state_dict(), "image.bias": "x"}
    with pytest.raises(ValueError, match="image.bias is a str, expected"):
        load_strictly(build(), tensors, "here")


def test_the_loss_keeps_its_own_weights():
    matcher, other = build(), build()
    matcher.loss = nn.Linear(2, 2)
    before = matcher.loss.weight.clone()
    load_strictly(matcher, {k: v + 1 for k, v in other.state_dict().items()}, "here")
    assert torch.equal(matcher.loss.weight, before)
    assert torch.equal(matcher.image.bias, other.image.bias + 1)


def test_own_checkpoints_may_hold_infinity_but_init_and_conversion_may_not(tmp_path):
    matcher = build()
    with torch.no_grad():
        matcher.image.bias[0] = float("inf")
    assert itm.load(matcher.save_pretrained(tmp_path)).image.bias[0] == float("inf")
    with pytest.raises(ValueError, match="here: image.bias holds NaN or infinity"):
        check_finite(matcher.state_dict(), "here")


@pytest.mark.parametrize(
    "argument, value",
    [
        ("num_layers", True), ("bidirectional", "x"), ("bidirectional", 1), ("temperature", None),
        ("temperature", []), ("embed_dim", 10**30), ("raw_norm", 5), ("weight_norm", 0.5),
    ],
)  # fmt: skip
def test_an_argument_of_another_type_is_refused_before_it_computes(argument, value, tmp_path):
    folder = SCAN(vocab_size=7, img_dim=4, word_dim=3, embed_dim=5).save_pretrained(tmp_path / "s")
    content = json.loads((folder / "config.json").read_text())
    content["arguments"][argument] = value
    content.pop("files")
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"{tmp_path.name}/s: argument {argument}=.*, expected"):
        itm.load(folder)
