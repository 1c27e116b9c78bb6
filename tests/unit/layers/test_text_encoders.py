"""Check what text encoders report about themselves."""

import pytest
import torch
from torch import nn

from itm.layers import GRUText, TextEncoder, sentence_encoder, text_encoder
from itm.layers.functional import last_state, masked_mean
from itm.layers.text import as_text_encoder

BERT = {
    "model_type": "bert", "vocab_size": 9, "hidden_size": 4, "num_hidden_layers": 1,
    "num_attention_heads": 1, "intermediate_size": 4,
}  # fmt: skip


def words(name, **options):
    return text_encoder({"name": name, **options}, 9, 6, word_dim=5)


def sentences(name, **options):
    return sentence_encoder({"name": name, **options}, 9, 5, 6)


ENCODERS = {
    "gru": words("gru"), "bert": words("bert", config=BERT), "vectors": sentences("vectors"),
    "mean": sentences("mean", word_reg=0.5), "attend": sentences("attend"),
    "gru sentence": sentences("gru"), "bert sentence": sentences("bert", config=BERT),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_answers(name):
    encoder = ENCODERS[name]
    assert as_text_encoder(encoder) is encoder
    assert encoder.pretrained == ("bert" in name)
    assert (encoder.needs_words, encoder.needs_vectors) == (name != "vectors", name == "vectors")
    groups = encoder.parameter_groups()
    expected = {"bert": ["bert"], "mean": ["words"], "attend": ["words"]}
    assert [group["name"] for group in groups] == expected.get(name.split()[0], [])
    assert set(encoder.saved_arguments()) == ({"config"} if "bert" in name else set())
    assert set(encoder.penalty()) == ({"words"} if name == "mean" else set())
    assert encoder.word_dim == (5 if name.split()[0] in ("gru", "mean", "attend") else None)


@pytest.mark.parametrize("name", ENCODERS)
def test_start_from(name):
    encoder = ENCODERS[name]
    if encoder.word_dim is None:
        with pytest.raises(NotImplementedError, match="learns no word embedding"):
            encoder.start_from(torch.ones(9, 5))
        return
    start = encoder.missing_words()
    assert start is None if isinstance(encoder, GRUText) else start.shape == (9, 5)
    encoder.start_from(torch.ones(9, 5))
    assert (encoder.embed.weight == 1).all()


def test_pool():
    states, mask = torch.randn(2, 3, 6), torch.tensor([[True, True, False], [True] * 3])
    assert torch.equal(ENCODERS["gru"].pool(states, mask), last_state(states, mask.sum(1)))
    assert torch.equal(ENCODERS["bert"].pool(states, mask), masked_mean(states, mask))


@pytest.mark.parametrize("module", [None, nn.Linear(2, 2)])
def test_any_other_module_gets_the_usual_answers(module):
    answers = as_text_encoder(module)
    assert type(answers) is TextEncoder and answers.parameter_groups() == []
    assert not (answers.needs_words or answers.needs_vectors or answers.pretrained)
