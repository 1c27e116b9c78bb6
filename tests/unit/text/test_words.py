"""Captions that are split once give the same numbers as captions that are split each time."""

from collections import Counter, defaultdict
from random import Random

import numpy as np
import pytest

from itm.text.concepts import Concepts
from itm.text.labels import Labels
from itm.text.tagged import tag_all
from itm.text.tagger import LexiconTagger
from itm.text.tokenizers import TOKENIZERS
from itm.text.vocabulary import SPECIALS, Vocabulary
from itm.text.word_lists import count_tags, frequent_nouns, is_word
from itm.text.words import CaptionWords, Ragged, split_captions

LEXICON = LexiconTagger()


def corpus(size=400, seed=0):
    """Draw captions of words that can have several tags, of none at all, and of other scripts."""
    open_ = sorted(word for word, tags in LEXICON.words.items() if len(tags) > 1)
    rest = sorted(LEXICON.words)[::37] + ["and", "the", "to", "very", ",", "isn't", "两只狗", "zzq"]
    rng = Random(seed)
    found = [
        " ".join(rng.choices(open_, k=rng.randrange(6)) + rng.choices(rest, k=rng.randrange(6)))
        for _ in range(size)
    ]
    for text in found[::3]:
        words = text.split()
        rng.shuffle(words)
        found.append(" ".join(words))
    return [*found, "", "  "]


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_the_words_are_those_of_the_tokeniser(tokenizer):
    texts = corpus()
    found = split_captions(texts, tokenizer)
    assert [found[row] for row in range(len(found))] == [TOKENIZERS[tokenizer](x) for x in texts]
    counts = Counter(word for text in texts for word in TOKENIZERS[tokenizer](text))
    assert list(counts.items()) == list(zip(found.words, found.counts().tolist(), strict=True))


@pytest.mark.parametrize("count", [0, 1, 17, 10_000])
def test_the_first_captions_are_as_if_only_they_had_been_split(count):
    texts = corpus()
    found = split_captions(texts, "treebank").first(count)
    expected = split_captions(texts[:count], "treebank")
    assert found.words == expected.words
    assert list(found.numbers) == list(expected.numbers)


VOCABULARIES = {
    "markers": lambda words: Vocabulary([*SPECIALS, *words]),
    "whitespace": lambda words: Vocabulary([*SPECIALS, *words], tokenizer="whitespace"),
    "no markers, unknown words are dropped": lambda words: Vocabulary(
        ["<pad>", *words], markers=False
    ),
    "fixed length": lambda words: Vocabulary(["<pad>", *words], markers=False, pad_to=4),
    "fixed length, markers": lambda words: Vocabulary([*SPECIALS, *words], pad_to=4),
}


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_ids_of_many_captions_equal_those_of_each(kind):
    texts = corpus()
    vocab = VOCABULARIES[kind](split_captions(texts, "treebank").words[::2])
    found = vocab.encode_all(texts)
    assert list(found) == [vocab.encode(text) for text in texts]
    assert found.lengths.tolist() == [len(vocab.encode(text)) for text in texts]


@pytest.mark.parametrize("seed", range(3))
def test_the_lexicon_tags_all_captions_as_it_tags_each(seed):
    texts = split_captions(corpus(seed=seed), "treebank")
    names, tags = tag_all(texts, LEXICON)
    expected = [tag for row in range(len(texts)) for tag in LEXICON(texts[row])]
    assert [names[tag] for tag in tags] == expected
    other = tag_all(texts, lambda tokens: LEXICON(tokens))  # a tagger of another kind
    assert [other.names[tag] for tag in other.of_word] == expected


def test_counts_of_tags_and_nouns_equal_plain_counters():
    texts = split_captions(corpus(), "treebank")
    counts, tags, nouns = Counter(), defaultdict(Counter), Counter()
    for row in range(len(texts)):
        for word, tag in zip(texts[row], LEXICON(texts[row]), strict=True):
            counts[word] += 1
            tags[word][tag] += 1
            nouns[word] += tag.startswith("NN")
    found, chosen = count_tags(texts, LEXICON)
    assert list(found.items()) == list(counts.items())
    assert chosen == {word: tags[word].most_common(1)[0][0] for word in counts}
    times = [nouns[word] for word in frequent_nouns(texts, 10_000, LEXICON)]
    assert times == sorted(times, reverse=True)
    assert frequent_nouns(texts, 5, LEXICON) == frequent_nouns(texts, 10_000, LEXICON)[:5]
    assert all(is_word(word) for word in frequent_nouns(texts, 10_000, LEXICON))


def test_word_lists_take_captions_or_their_words():
    texts = corpus()
    words = split_captions(texts, "treebank")
    image = np.arange(len(texts)) // 5
    assert Vocabulary.build(words, 2) == Vocabulary.build(texts, 2)
    lists = [Labels.build(x, 30, caption_image=image) for x in (words, texts)]
    assert lists[0].state() == lists[1].state()
    size = int(image[-1]) + 1
    assert np.array_equal(*(lists[0].label_images(x, image, size) for x in (words, texts)))
    concepts = [Concepts.build(x, 30) for x in (words, texts)]
    assert concepts[0].state() == concepts[1].state()
    assert np.array_equal(*(concepts[0].label(x) for x in (words, texts)))
    with pytest.raises(ValueError, match="legacy_join"):
        lists[0].label_images(words, image, size, legacy_join=True)


def test_words_of_another_tokeniser_are_refused():
    words = split_captions(["a dog"], "whitespace")
    with pytest.raises(ValueError, match=r"split by 'whitespace', expected 'treebank'"):
        Vocabulary.build(words, 1)
    with pytest.raises(ValueError, match="whitespace"):
        Vocabulary([*SPECIALS, "a"]).encode_all(words)


def test_a_ragged_array_is_a_sequence_of_lists():
    found = Ragged.of([[1, 2], [], [3]])
    assert list(found) == [[1, 2], [], [3]]
    assert found[2] == [3]
    for row in (3, -1):
        with pytest.raises(IndexError, match="row"):
            found[row]
    assert list(found.between(8, 9)) == [[8, 1, 2, 9], [8, 9], [8, 3, 9]]
    assert list(found.cut_to(1, 0)) == [[1], [0], [3]]
    assert isinstance(split_captions([], "treebank"), CaptionWords)
    assert len(Vocabulary(list(SPECIALS)).encode_all([])) == 0
