"""Check what text encoders report about themselves."""

import pytest
import torch
from torch import nn

from itm.batch import Captions
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
    "gru": lambda: words("gru"),
    "bert": lambda: words("bert", config=BERT),
    "vectors": lambda: sentences("vectors"),
    "mean": lambda: sentences("mean", word_reg=0.5),
    "attend": lambda: sentences("attend"),
    "gru sentence": lambda: sentences("gru"),
    "bert sentence": lambda: sentences("bert", config=BERT),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_answers(name):
    encoder = ENCODERS[name]()
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
    encoder = ENCODERS[name]()
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
    assert torch.equal(ENCODERS["gru"]().pool(states, mask), last_state(states, mask.sum(1)))
    assert torch.equal(ENCODERS["bert"]().pool(states, mask), masked_mean(states, mask))


@pytest.mark.parametrize("module", [None, nn.Linear(2, 2)])
def test_any_other_module_gets_the_usual_answers(module):
    answers = as_text_encoder(module)
    assert type(answers) is TextEncoder and answers.parameter_groups() == []
    assert not (answers.needs_words or answers.needs_vectors or answers.pretrained)


@pytest.mark.parametrize("name", ["gru", "mean", "attend"])
@pytest.mark.parametrize(
    "lengths", [(3, 5), (3,), (3, 2, 1), (3, -1)], ids=["long", "few", "many", "negative"]
)
def test_every_caption_has_a_length_within_its_row(name, lengths):
    """A missing length had left out a caption, and a negative one gave a vector."""
    text = sentence_encoder({"name": name}, vocab_size=20, word_dim=4, sentence_dim=8)
    row = torch.arange(2)
    with pytest.raises(ValueError, match=r"as many lengths.* got ids \(2, 4\) and \d lengths"):
        text(Captions(torch.ones(2, 4).long(), lengths, row, row))
    with pytest.raises(ValueError, match=r"a row of ids per caption.* got ids \(4,\)"):
        text(Captions(torch.ones(4).long(), (4,), row[:1], row[:1]))


@pytest.mark.parametrize("name", ["gru", "mean", "attend"])
@pytest.mark.parametrize("word", [20, -1])
def test_ids_outside_of_the_vocabulary_are_told(name, word):
    """On a CPU; a GPU stops the process."""
    text = sentence_encoder({"name": name}, vocab_size=20, word_dim=4, sentence_dim=8)
    row, ids = torch.arange(2), torch.ones(2, 4).long()
    ids[1, 2] = word
    with pytest.raises(ValueError, match=f"ids from .*{word}.* has vectors for 0 to 19"):
        text(Captions(ids, (4, 4), row, row))
    if name == "gru":  # which does not read padding
        assert text(Captions(ids, (4, 2), row, row)).isfinite().all()
