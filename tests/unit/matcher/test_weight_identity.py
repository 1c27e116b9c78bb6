"""The digest of weights stays when a matcher is saved, loaded or converted, and tells others."""

import copy

import pytest
import torch

import itm
from itm.losses import InfoNCE, Triplet
from itm.matcher.weight_identity import same_weights, weight_digest, weight_sample
from itm.models import SGRAF, VSEPP
from itm.text.vocabulary import Vocabulary

VOCAB = Vocabulary.build(["a dog"], 1)
SMALL = {"vocab_size": len(VOCAB), "img_dim": 6, "embed_dim": 8, "word_dim": 4}


@pytest.mark.parametrize("model", ["vsepp", "saf"])
def test_a_loaded_matcher_has_the_digest_of_the_one_that_was_saved(model, tmp_path):
    torch.manual_seed(0)
    own = {"sim_dim": 4, "module": "SAF", "num_regions": 3}
    matcher = VSEPP(**SMALL, loss=Triplet()) if model == "vsepp" else SGRAF(**SMALL, **own)
    matcher.vocab = VOCAB
    digest = weight_digest(matcher)
    matcher.save_pretrained(tmp_path / "saved")
    loaded = itm.load(tmp_path / "saved")
    assert weight_digest(loaded) == weight_digest(copy.deepcopy(matcher)) == digest
    assert weight_digest(loaded.double()) == digest  # as a training with precision=64-true


def test_every_value_counts_except_those_of_the_loss():
    torch.manual_seed(0)
    matcher = VSEPP(**SMALL, loss=InfoNCE())
    digest = weight_digest(matcher)
    for tensor in matcher.loss.parameters():
        tensor.data += 1
    assert weight_digest(matcher) == digest
    found = {digest}
    for name, tensor in matcher.state_dict().items():
        if not name.startswith("loss."):
            before = tensor.clone()
            tensor.view(-1)[-1] += 1
            found.add(weight_digest(matcher))
            tensor.copy_(before)
    assert weight_digest(matcher) == digest
    assert len(found) == 1 + sum(not name.startswith("loss.") for name in matcher.state_dict())


def test_statistics_of_batch_norms_count_as_weights():
    """They change without a step of an optimiser, and scores with them."""
    torch.manual_seed(0)
    matcher = SGRAF(**SMALL, sim_dim=4, module="SAF", num_regions=3)
    before = weight_sample(matcher)
    assert same_weights(matcher, before) and same_weights(copy.deepcopy(matcher).double(), before)
    name, statistic = next(x for x in matcher.named_buffers() if x[0].endswith("running_mean"))
    statistic += 0.1
    assert not same_weights(matcher, before), name
