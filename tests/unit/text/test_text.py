import json

import numpy as np
import pytest
import torch
from goldens_path import case, shared
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from itm.batch import Captions
from itm.data.layout import read_captions
from itm.layers.packing import by_step
from itm.layers.text import GRUText, text_encoder
from itm.text.made_from import made_from
from itm.text.tokenizers import lower, tokenize, treebank
from itm.text.vocabulary import SPECIALS, UNK, Vocabulary, vocabulary_from


def captions_of(lengths, vocab_size=30, seed=0):
    rng = np.random.default_rng(seed)
    tokens = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, n in zip(tokens, lengths, strict=True):
        row[:n] = torch.from_numpy(rng.integers(1, vocab_size, n))
    index = torch.arange(len(lengths))
    return Captions(tokens, tuple(lengths), index, index)


def test_tokens_equal_the_published_pipeline():
    cases = json.loads((case("tokenizer") / "cases.json").read_text(encoding="utf-8"))["cases"]
    for one in cases:
        assert lower(one["caption"]) == lower(one["lowered"])
        assert tokenize(one["caption"]) == one["tokens"]
    assert len(cases) == 32


@pytest.mark.parametrize("count", [2, 4])
def test_vocabulary_equals_the_published_builder(count, tmp_path):
    folder = case("tokenizer") / "vocab_build"
    captions = [
        caption
        for name in ("train", "dev")
        for caption in read_captions(folder / "f30k_precomp" / f"{name}_caps.txt")
    ]
    Vocabulary.build(captions, count).save(tmp_path / "v.json")
    expected = json.loads((folder / f"expected_threshold{count}.json").read_text())
    assert json.loads((tmp_path / "v.json").read_text()) == expected


@pytest.mark.parametrize("name, size", [("coco", 11353), ("f30k", 8481)])
def test_published_vocabularies_load_and_save_unchanged(name, size, tmp_path):
    path = shared(f"data/vocab/{name}_precomp_vocab.json")
    vocab = Vocabulary.load(path)
    assert len(vocab) == size
    vocab.save(tmp_path / "again.json")
    assert json.loads((tmp_path / "again.json").read_text()) == json.loads(path.read_text())
    assert vocab.decode(vocab.encode("A dog runs ."))[1:-1] == ["a", "dog", "runs", "."]


def test_unknown_words_and_markers():
    vocab = Vocabulary([*SPECIALS, "a", "dog"])
    assert vocab.encode("A zyzzyva dog") == [1, 4, UNK, 5, 2]
    assert Vocabulary([*SPECIALS, "a"], markers=False).encode("a a") == [4, 4]
    assert vocabulary_from(vocab.state()) == vocab


@given(st.text())
def test_any_text_is_encoded_and_the_state_round_trips(text):
    vocab = Vocabulary.build([text, "a dog"], min_count=1)
    ids = vocab.encode(text)
    assert ids[0] == 1 and ids[-1] == 2
    assert all(0 < i < len(vocab) for i in ids)
    # Every word was seen, so none is unknown but <unk> itself.
    words = tokenize(text)
    known = [w for w, i in zip(words, ids[1:-1], strict=True) if i != UNK]
    assert known == [w for w in words if w != "<unk>"]
    assert vocabulary_from(json.loads(json.dumps(vocab.state()))).encode(text) == ids


@pytest.mark.parametrize(
    "content", ["[]", "{}", "no json", '{"word2idx": {"<pad>": 5}}', '{"word2idx": {}}']
)
def test_a_file_that_is_no_vocabulary_says_so(content, tmp_path):
    (tmp_path / "v.json").write_text(content)
    with pytest.raises(ValueError, match="vocabulary|word2idx"):
        Vocabulary.load(tmp_path / "v.json")


def test_a_word_twice_is_an_error():
    with pytest.raises(ValueError, match="must hold each word once"):
        Vocabulary([*SPECIALS, "a", "a"])


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_gru_equals_one_caption_at_a_time(bidirectional, layers):
    """Padding and batching change nothing: compare with each caption alone in a plain nn.GRU."""
    torch.manual_seed(0)
    encoder = GRUText(30, 6, 8, layers, bidirectional).eval()
    captions = captions_of([3, 7, 1, 5])
    words, mask = encoder(captions)
    for i, n in enumerate(captions.lengths):
        states, _ = encoder.rnn(encoder.embed(captions.tokens[i : i + 1, :n]))
        if bidirectional:
            states = (states[..., :8] + states[..., 8:]) / 2
        torch.testing.assert_close(words[i, :n], states[0], atol=1e-6, rtol=0)
        assert mask[i].sum() == n and not words[i, n:].any()


def test_bert_needs_no_folder_once_saved():
    config = {
        "model_type": "bert",
        "vocab_size": 40,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    encoder = text_encoder({"name": "bert", "config": config}, 40, 8).eval()
    long, short = captions_of([9, 4], 40), captions_of([9, 4], 40)
    words, mask = encoder(long)
    alone = short._replace(tokens=short.tokens[1:, :4], lengths=(4,))
    torch.testing.assert_close(words[1, :4], encoder(alone)[0][0], atol=1e-6, rtol=0)
    assert not words[1, 4:].any()
    encoder.train()
    encoder(long)[0].sum().backward()
    assert all(p.grad is None for p in encoder.bert.parameters())  # frozen by default
    assert encoder.project.weight.grad is not None


def test_an_unknown_text_encoder_is_named():
    with pytest.raises(ValueError, match="text=gru or text=bert"):
        text_encoder({"name": "lstm"}, 10, 8)


@pytest.mark.parametrize("lengths", [[5, 2, 7, 1], [3], [4, 4], [1, 1, 6]])
def test_words_are_packed_and_padded_as_by_torch(lengths):
    torch.manual_seed(0)
    size = max(lengths) + 2
    words = torch.randn(len(lengths), size, 3, dtype=torch.double)
    packed = pack_padded_sequence(
        words, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    rows, sizes, order = by_step(lengths, size, torch.device("cpu"))
    assert torch.equal(sizes, packed.batch_sizes)
    flat = words.flatten(0, 1)
    # Captions of equal length may stand in another order within a step.
    expected = [step.tolist() for step in packed.data.split(sizes.tolist())]
    found = [step.tolist() for step in flat[rows].split(sizes.tolist())]
    assert [sorted(step) for step in found] == [sorted(step) for step in expected]
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    ours = torch.zeros_like(flat).index_copy(0, rows, flat[rows]).view_as(words)
    theirs, _ = pad_packed_sequence(packed, batch_first=True, total_length=size)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("pad_to", [None, 4])
@pytest.mark.parametrize("tokenizer", ["treebank", "whitespace", "bytes_repr"])
def test_saved_vocabularies_keep_their_tokenizer(tokenizer, pad_to, tmp_path):
    words = [*SPECIALS, "dog", "b"] if pad_to is None else ["<pad>", "dog", "b"]
    vocab = Vocabulary(words, pad_to is None, tokenizer, pad_to)
    vocab.save(tmp_path / "vocab.json")
    assert Vocabulary.load(tmp_path / "vocab.json") == vocab
    assert vocab.as_read("A dog") == ("b'a dog'" if tokenizer == "bytes_repr" else "A dog")


@pytest.mark.parametrize(
    "caption",
    [
        "A man's dog, two t-shirts , and 1,000 cats.",
        "a dog .",
        "I cannot see; it's gonna rain...",
        '\'tis 3.5 m -- "far"!',
        "the dogs' owner, who isn't here",
        ".",
        "",
        "a, ,b. c.",
        "cannot-x, man's.",
    ],
)
def test_the_shortcut_equals_treebank(caption):
    assert tokenize(caption) == treebank(lower(caption))


@given(
    st.lists(
        st.sampled_from(
            ["a", "b1", "'s", ",", ",", "", ".", "-", "cannot", "t's", "1", "'", "--", "!", "gonna"]
        )
    )
)
def test_the_shortcut_equals_treebank_on_any_mixture(parts):
    for text in ("".join(parts), " ".join(parts)):
        assert tokenize(text) == treebank(lower(text))


@pytest.mark.parametrize("markers, pad_to", [(False, None), (True, 5)])
@pytest.mark.parametrize("captions_hash", [None, "ab"])
def test_a_vocabulary_without_a_published_format_is_saved_as_it_is(
    markers, pad_to, captions_hash, tmp_path
):
    vocab = Vocabulary([*SPECIALS, "a", "dog"], markers, pad_to=pad_to)
    vocab.save(tmp_path / "vocab.json", captions_hash)
    assert Vocabulary.load(tmp_path / "vocab.json") == vocab
    assert made_from(tmp_path / "vocab.json") == captions_hash
