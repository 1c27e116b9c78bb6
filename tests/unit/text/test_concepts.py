import json
import pickle
import re
import shutil
from collections import Counter
from functools import partial
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import numpy as np
import pytest
from goldens_path import case, read_npz, shared

from itm.data.collate import caption_concepts
from itm.text.concepts import Concepts
from itm.text.labels import Labels
from itm.text.lemmas import noun_lemma
from itm.text.tagger import LexiconTagger, PerceptronTagger, default_tagger, tagger_name
from itm.text.tokenizers import tokenize
from itm.text.vocabulary import SPECIALS, Vocabulary
from itm.text.word_lists import STOP_WORDS, co_occurrence
from itm.text.word_vectors import word_vectors
from itm.text.words import split_captions
from itm.utils.packed_arrays import from_text, to_text
from itm.utils.safe_pickle import read_arrays

CVSE = ["f30k", "f30k_variant", "coco", "coco_to_f30k"]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def caps(folder: Path, split: str) -> list[str]:
    return lines(next(folder.glob(f"data/*/{split}_caps.txt")))


# Tagger -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "caption, expected",
    [
        ("a man walks on a long walk .", "DT NN VBZ IN DT JJ NN ."),
        ("two dogs play with an orange ball", "CD NNS VB IN DT JJ NN"),
        ("they run to the park and jump", "PRP VB TO DT NN CC VB"),
        ("the very clean kitchen", "DT RB JJ NN"),
        ("a long-haired girl in a t-shirt quickly climbs", "DT JJ NN IN DT NN RB VBZ"),
        ("women are sitting and were photographed", "NNS VBP VBG CC VBD VBN"),
        ("3 buses , 2nd bus", "CD NNS . CD NN"),
        ("", ""),
    ],
)
def test_lexicon_tags_in_context(caption, expected):
    assert LexiconTagger()(caption.split()) == expected.split()


def test_lexicon_words_are_listed_once():
    from importlib.resources import files

    text = files("itm.text").joinpath("lexicon.txt").read_text(encoding="utf-8")
    words = [w for line in text.splitlines() if line[:1] not in "# " for w in line.split()[1:]]
    assert [w for w, n in Counter(words).items() if n > 1] == []


def test_default_tagger_is_the_lexicon_unless_nltk_has_its_data(monkeypatch):
    def missing(self):
        raise LookupError

    monkeypatch.setattr(PerceptronTagger, "__init__", missing)
    default_tagger.cache_clear()
    assert isinstance(default_tagger(), LexiconTagger) and default_tagger()(["dogs"]) == ["NNS"]
    monkeypatch.setattr(PerceptronTagger, "__init__", lambda self: None)
    monkeypatch.setattr(PerceptronTagger, "__call__", lambda self, tokens: ["X"] * len(tokens))
    default_tagger.cache_clear()
    assert default_tagger()(["dogs"]) == ["X"]
    assert tagger_name(default_tagger()) == "nltk perceptron"
    default_tagger.cache_clear()


# Concepts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CVSE)
def test_original_files_are_read(name):
    folder = case(f"cvse/{name}") / "concepts"
    index = json.loads((folder / "category_concepts.json").read_text())
    with open(folder / "adj_concepts.pkl", "rb") as file:
        counts = pickle.load(file)
    with open(folder / "concepts_emb.pkl", "rb") as file:
        vectors = pickle.load(file)
    concepts = Concepts.load(folder)
    assert concepts.words == list(index) and concepts.matching == "lemma"
    assert np.array_equal(concepts.counts, counts["nums"])
    assert np.array_equal(concepts.adjacency, counts["adj_all"])
    assert np.array_equal(concepts.vectors, vectors.astype(np.float32))
    assert Concepts.load(folder / "category_concepts.json").state() == concepts.state()


@pytest.mark.parametrize("name", CVSE)
def test_labels_of_captions_match_the_published_test_rule(name):
    folder = case(f"cvse/{name}")
    expected = read_npz(folder / "expected.npz")["concept_labels"]
    labels = Concepts.load(folder / "concepts").label(caps(folder, "test"))
    assert labels.dtype == np.float32 and np.array_equal(labels, expected)


@pytest.mark.parametrize("name", CVSE[:2])
def test_labels_of_images_match_the_published_training_rule(name):
    folder = case(f"cvse/{name}")
    captions = caps(folder, "train")
    rows = np.arange(len(captions)) // 5
    records = json.loads((folder / "concepts/all_f30k_concept_label.json").read_text())
    labels = Concepts.load(folder / "concepts").label_images(captions, rows, rows.max() + 1)
    assert [np.flatnonzero(row).tolist() for row in labels] == [
        record["concept_labels"] for record in records
    ]


@pytest.mark.parametrize("name", CVSE[:3])
def test_counts_match_the_golden_corpus(name):
    folder = case(f"cvse/{name}") / "concepts"
    concepts = Concepts.load(folder)
    corpus = lines(folder / "corpus_caps.txt")
    groups = json.loads((folder / "concept_groups.json").read_text())
    tags = {"OBJ": "NN", "PROP": "JJ", "MOT": "VB"}

    def tagger(tokens):
        return [tags[groups[token]] if token in groups else "." for token in tokens]

    built = Concepts.build(corpus, size=20, tagger=tagger)
    assert set(built.words) == set(concepts.words)
    order = [built.words.index(word) for word in concepts.words]
    assert np.array_equal(built.counts[order], concepts.counts)
    assert np.array_equal(built.adjacency[np.ix_(order, order)], concepts.adjacency)
    assert built.groups == [groups[word] for word in built.words]


def test_co_occurrence_equals_a_brute_force_count():
    rng = np.random.default_rng(3)
    words = list("abcdefg")
    sentences = [rng.choice([*words, "x"], rng.integers(0, 9)).tolist() for _ in range(60)]
    expected = np.zeros((7, 7), int)
    for tokens in sentences:
        for a, b in combinations(range(7), 2):
            if words[a] in tokens and words[b] in tokens:
                expected[a, b] += 1
                expected[b, a] += 1
    found = split_captions([" ".join(tokens) for tokens in sentences], "whitespace")
    assert np.array_equal(co_occurrence(found, words), expected)


def colour_tagger(tokens):
    kinds = {"n": "NN", "j": "JJ", "v": "VBG", "q": "''"}
    return [kinds.get(token[0], "DT") for token in tokens]


def test_quotas_ties_and_order():
    captions = ["n1 n2 n3 n4 n5 n6 n7 n8 j1 j2 j3 v1 v2", "n8 v2 v2 j3", "n8 n8 the the the"]
    concepts = Concepts.build(captions, size=10, tagger=colour_tagger)
    # seven objects, two properties, one motion; equal counts in order of first occurrence
    assert concepts.words == ["n8", *(f"n{i}" for i in range(1, 7)), "j3", "j1", "v2"]
    assert concepts.groups == ["OBJ"] * 7 + ["PROP"] * 2 + ["MOT"]
    assert concepts.counts.tolist() == [4, 1, 1, 1, 1, 1, 1, 2, 1, 3]
    assert concepts.adjacency[0, 9] == 2  # captions, not tokens
    assert concepts.source == "colour_tagger"


def test_small_groups_leave_their_places_to_objects_then_to_others():
    captions = ["n1 n2 n3 n4 n5 n6 n7 n8 n9 v1"]
    assert Concepts.build(captions, 10, colour_tagger).groups == ["OBJ"] * 9 + ["MOT"]
    captions = ["n1 j1 j2 j3 j4 v1 v2 v3 v4"]
    assert Concepts.build(captions, 8, colour_tagger).groups == ["OBJ"] + ["PROP"] * 4 + ["MOT"] * 3
    assert len(Concepts.build(["n1 j1"], 300, colour_tagger)) == 2
    assert len(Concepts.build([], 300, colour_tagger)) == 0


def test_the_most_frequent_tag_decides_the_group():
    tags = iter(["NN", "VB", "NN", "VBZ", "VBZ", "NNS"])
    concepts = Concepts.build(
        ["walk walk walk", "runs runs runs"], 9, lambda t: [next(tags) for _ in t]
    )
    assert dict(zip(concepts.words, concepts.groups, strict=True)) == {"walk": "OBJ", "runs": "MOT"}


def test_exact_and_lemma_matching():
    words = ["dog", "dogs", "women", "glasses", "is", "t-shirt"]
    captions = ["Dogs near a woman.", "A dog's t-shirt is wet", ""]
    exact = Concepts(words).label(captions)
    assert [np.flatnonzero(row).tolist() for row in exact] == [[1], [0, 4, 5], []]
    lemma = Concepts(words, matching="lemma").label([*captions, "a wine glass"])
    assert [np.flatnonzero(row).tolist() for row in lemma] == [[0, 2], [0, 4, 5], [], [3]]
    assert np.array_equal(Concepts(words).label(captions, "lemma"), lemma[:3])
    assert Concepts(words).label([]).shape == (0, 6)


def test_image_labels_are_the_union_of_exact_words():
    concepts = Concepts(["dog", "ball", "cat"], matching="lemma")
    labels = concepts.label_images(
        ["a dog", "balls", "a ball and ball", "nothing"], [2, 0, 2, 0], 3
    )
    assert labels.tolist() == [[0, 0, 0], [0, 0, 0], [1, 1, 0]] and labels.dtype == np.float32


def test_lemmas():
    pairs = (
        "dogs:dog boxes:box ladies:lady women:woman men:men firemen:fireman glass:glass has:ha "
        "glasses:glass is:is was:wa grass:grass bus:bus buses:bus busses:bus skis:ski taxis:taxi "
        "potatoes:potato tomatoes:tomato heroes:hero goes:go does:doe shoes:shoe movies:movie "
        "cookies:cookie zombies:zombie ties:tie pies:pie menus:menu lens:lens lenses:lens gas:gas "
        "canvas:canvas series:series mustaches:mustache shoed:shoed bookshelves:bookshelf this:this"
    )
    for pair in pairs.split():
        word, lemma = pair.split(":")
        assert noun_lemma(word) == lemma


def wordnet():
    """Read WordNet 3's words and irregular forms, as METEOR packages them."""
    import pycocoevalcap

    with ZipFile(Path(pycocoevalcap.__path__[0], "meteor/meteor-1.5.jar")) as jar:
        words, forms = (
            jar.read(f"synonym/english.{name}").decode("utf-8").split("\n")
            for name in ("synsets", "exceptions")
        )
    irregular = dict(zip(forms[::2], forms[1::2], strict=False))
    return set(words[::2]), {x: word for word, xs in irregular.items() for x in xs.split()}


def test_plurals_that_wordnet_knows_become_words_that_it_knows():
    known, irregular = wordnet()
    rules = [
        "ses:s",
        "ves:f",
        "xes:x",
        "zes:z",
        "ches:ch",
        "shes:sh",
        "ies:y",
        "s:",
    ]  # WordNet's, of nouns
    endings = [rule.split(":") for rule in rules]
    seen, wrong = 0, []
    for name in ("coco", "f30k"):
        for word in Vocabulary.load(shared(f"data/vocab/{name}_precomp_vocab.json")).words:
            stems = [word.removesuffix(a) + b for a, b in endings if word.endswith(a)]
            stems = {irregular.get(word), *stems} & known
            plural = word.isalpha() and word.endswith("s") and len(word) > 2
            if plural and stems and word not in known and word not in STOP_WORDS:
                seen += 1
                wrong += [] if noun_lemma(word) in stems else [(word, noun_lemma(word), stems)]
    assert seen > 2000 and not wrong


def test_state_and_files_round_trip(tmp_path):
    built = Concepts.build(["a red dog runs", "two dogs run on red grass"], 5)
    built.vectors = np.random.default_rng(0).standard_normal((len(built), 4)).astype(np.float32)
    state = json.loads(json.dumps(built.state()))
    assert Concepts.from_state(state).state() == built.state()
    built.save(tmp_path / "concepts.json")
    loaded = Concepts.load(tmp_path / "concepts.json")
    assert loaded.state() == built.state() and np.array_equal(loaded.vectors, built.vectors)
    assert loaded.source == tagger_name(default_tagger())
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    assert (
        np.array_equal(from_text(to_text(array)), array)
        and from_text(to_text(array)).dtype == np.int32
    )


def test_word_vectors(tmp_path):
    file = tmp_path / "glove.txt"
    file.write_text("dog 1 2\nsnow 3 4\ncovered 5 8\nother 0 0\n")
    vectors = word_vectors(["dog", "snow-covered", "unknown"], file)
    assert vectors[:2].tolist() == [[1, 2], [4, 6]] and vectors.dtype == np.float32
    assert np.array_equal(vectors, word_vectors(["dog", "snow-covered", "unknown"], file))
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "words.json").write_text('{"dog": 0, "snow": 1, "x": 2}')
    loaded = Concepts.load(tmp_path / "words.json", vectors=tmp_path / "v.npy")
    assert np.array_equal(loaded.vectors, vectors)


def test_missing_words_get_the_vector_of_a_simpler_form(tmp_path):
    file = tmp_path / "vectors.txt"  # with a header, and a second line of "dog"
    file.write_text("2 3\ndog 1 2 3\ntshirt 3 4 5\nshirt 0 2 0\nman 5 6 7\ndog food 9 9 9\n")
    words = ["dog", "dog's", "t-shirt", "man/boy", "polo-shirt", "2", "-"]
    expected = [[1, 2, 3], None, [3, 4, 5], [5, 6, 7], [0, 2, 0], None, None]
    for vector, truth in zip(word_vectors(words, file), expected, strict=True):
        assert vector.tolist() == truth if truth else 0 < abs(vector).max() < 4
    with pytest.raises(ValueError, match="none of the 1 words; expected lines 'word 0.1 0.2'"):
        word_vectors(["<pad>"], file)
    file.write_text("dog 1 2\ncat 1 2 3\n")
    with pytest.raises(ValueError, match=r"vectors.txt has vectors of widths \[2, 3\]"):
        word_vectors(["dog", "cat"], file)
    file.write_text("dog name@domain.com 7 8\ndog 1 2\n")  # GloVe 840B has words with blanks
    assert word_vectors(["dog"], file).tolist() == [[1, 2]]
    file.write_text("dog runs fast\n")
    with pytest.raises(ValueError, match="vectors.txt has a vector for none of the 1 words"):
        word_vectors(["dog"], file)


def test_wrong_concepts_say_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="concepts must hold each word once"):
        Concepts(["dog", "dog"])
    with pytest.raises(ValueError, match="adjacency must be .3, 3. for 3 concepts, got .2, 2."):
        Concepts(["a", "b", "c"], adjacency=np.zeros((2, 2)))
    with pytest.raises(ValueError, match="vectors must be .2, G., got .3, 2."):
        Concepts(["a", "b"], vectors=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="matching must be 'exact' or 'lemma', got 'stem'"):
        Concepts(["a"], matching="stem")
    with pytest.raises(FileNotFoundError, match="no word list"):
        Concepts.load(tmp_path / "none.json")
    (tmp_path / "gap.json").write_text('{"dog": 0, "cat": 2}')
    with pytest.raises(ValueError, match="is not a word list"):
        Concepts.load(tmp_path / "gap.json")
    (tmp_path / "text.json").write_text("dog")
    with pytest.raises(ValueError, match="is not JSON"):
        Concepts.load(tmp_path / "text.json")
    np.save(tmp_path / "v.npy", np.zeros((3, 2)))
    with pytest.raises(ValueError, match="expected a row for each of the 1 words"):
        word_vectors(["dog"], tmp_path / "v.npy")
    with pytest.raises(FileNotFoundError):
        word_vectors(["dog"], tmp_path / "none.txt")


def test_pickles_of_anything_but_arrays_are_refused(tmp_path):
    with open(tmp_path / "evil.pkl", "wb") as file:
        pickle.dump(print, file)
    with pytest.raises(ValueError, match="could not be read safely"):
        read_arrays(tmp_path / "evil.pkl")


def test_concepts_of_real_captions_are_sensible():
    captions = lines(shared("data/flickr8k/train_caps.txt"))[:6000]
    concepts = Concepts.build(captions, tagger=LexiconTagger())
    group = dict(zip(concepts.words, concepts.groups, strict=True))
    assert [concepts.groups.count(name) for name in ("OBJ", "PROP", "MOT")] == [210, 60, 30]
    for name, words in {
        "OBJ": "man men dog dogs water shirt beach building shorts bench group ball glasses park",
        "PROP": "white black young small large blue wooden several snowy tall red orange",
        "MOT": "is are wearing running playing sitting stands holds jumping has",
    }.items():
        assert {word: group.get(word) for word in words.split()} == dict.fromkeys(
            words.split(), name
        )
    assert not {"a", "the", "in", "two", "with", ".", "'s", "and", "up"} & set(concepts.words)


# Labels -----------------------------------------------------------------------------------------


def test_label_images_match_the_original_with_and_without_its_join():
    folder = case("labels")
    expected = read_npz(folder / "expected.npz")
    labels = Labels.load(folder / "vocab_tag.json")
    assert "<unk>" not in labels.words and len(labels) == 20
    captions = lines(folder / "train_caps.txt")
    rows = np.arange(len(captions)) // 5
    spaced = labels.label_images(captions, rows, rows.max() + 1)
    glued = labels.label_images(captions, rows, rows.max() + 1, legacy_join=True)
    images = expected["batch_images"]
    assert np.array_equal(spaced[images], expected["derived_batch_tags_spacejoin"])
    assert np.array_equal(glued[images], expected["batch_tags"])


def test_labels_are_the_most_frequent_nouns():
    captions = ["A man and a dog .", "The man runs", "two dogs and a cat near the cat", "it is red"]
    labels = Labels.build(captions, 3, caption_image=[0, 0, 1, 1])
    assert labels.words == ["man", "cat", "dog"] and labels.images == 2
    assert labels.positives == [1, 1, 1]
    assert len(Labels.build(captions, 500)) == 4 and Labels.build(captions, 500).images == 4


def test_pos_weight_is_negatives_over_positives():
    labels = Labels(["a", "b", "c"], [10, 1, 0], 1000)
    assert np.allclose(labels.pos_weight(cap=500), [99, 500, 500])
    assert labels.pos_weight().tolist() == [99, 100, 100]
    with pytest.raises(ValueError, match="no counts"):
        Labels(["a"]).pos_weight()


def test_labels_round_trip(tmp_path):
    labels = Labels.build(["a man with a dog", "a dog"], 5)
    labels.save(tmp_path / "labels.json")
    again = Labels.load(tmp_path / "labels.json")
    assert again.state() == labels.state() == Labels.from_state(labels.state()).state()
    with pytest.raises(ValueError, match="labels must hold each word once"):
        Labels(["a", "a"])
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(ValueError, match="is not a word list"):
        Labels.load(tmp_path / "other.json")
    Concepts(["a"]).save(tmp_path / "concepts.json")
    with pytest.raises(ValueError, match="concepts.json must be a label list"):
        Labels.load(tmp_path / "concepts.json")
    Vocabulary.build(["a dog"], 1).save(tmp_path / "vocab.json")
    with pytest.raises(ValueError, match="is a vocabulary of 6 words, expected a label list"):
        Labels.load(tmp_path / "vocab.json")


def test_stop_words_and_signs_are_no_labels():
    labels = Labels.build(["`` other ones '' 's -- 12 dog"], 9, lambda tokens: ["NN"] * len(tokens))
    assert labels.words == ["ones", "dog"]
    assert tokenize("12 dogs") == ["12", "dogs"]


# In the data module ------------------------------------------------------------------------------


def test_training_labels_are_those_of_the_image_and_test_labels_those_of_the_caption(tmp_path):
    from itm.data.module import RegionDataModule

    captions = ["a dog", "a ball", "a cat", "the cat and a dog"]
    for name in ("train", "dev", "test"):
        np.save(tmp_path / f"{name}_ims.npy", np.zeros((2, 3, 4), np.float32))
        (tmp_path / f"{name}_caps.txt").write_text("\n".join(captions) + "\n")
    options = {"captions_per_image": 2, "min_count": 1, "num_concepts": 3}
    data = RegionDataModule(tmp_path, needs=["concepts", "labels"], **options)
    data.setup()
    assert data.concept_vocabulary.words == ["dog", "cat", "ball"]
    # image 0 is called dog and ball, image 1 cat and dog
    train = data.reader("train").captions([0, 1, 2, 3]).concepts
    assert train.tolist() == [[1, 0, 1], [1, 0, 1], [1, 1, 0], [1, 1, 0]]
    val = data.reader("val").captions([0, 1, 2, 3]).concepts
    assert val.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 1, 0]]
    assert data.label_vocabulary.images == 2 and data.label_vocabulary.positives == [2, 1, 1]


def test_a_published_label_list_and_the_counts_of_the_training_captions(tmp_path):
    from itm.data.module import RegionDataModule

    folder = case("labels")
    captions = lines(folder / "train_caps.txt")
    images = len(captions) // 5
    for name in ("train", "dev", "test"):
        np.save(tmp_path / f"{name}_ims.npy", np.zeros((images, 3, 4), np.float32))
        shutil.copy(folder / "train_caps.txt", tmp_path / f"{name}_caps.txt")
    index = json.loads((folder / "vocab_tag.json").read_text())["word2idx"]
    words = sorted(index, key=index.get)[1:]
    Labels(words, [1] * len(words), 2).save(tmp_path / "labels.json")  # counts of other captions
    texts = [" ".join(captions[k : k + 5]).lower() for k in range(0, 5 * images, 5)]
    count = [sum(word in re.findall("[a-z]+", text) for text in texts) for word in words]
    for file in (folder / "vocab_tag.json", tmp_path / "labels.json"):
        data = RegionDataModule(tmp_path, labels=file, num_labels=7, needs=["labels"])
        data.setup()
        labels = data.label_vocabulary
        assert labels.words == words and labels.positives == count
        assert np.allclose(labels.pos_weight(1e9), [(images - n) / max(n, 1) for n in count])
        expected = read_npz(folder / "expected.npz")
        found = data.reader("train").captions(5 * expected["batch_images"]).labels
        assert np.array_equal(found, expected["derived_batch_tags_spacejoin"])


def test_evaluation_finds_concepts_in_the_text_that_is_read():
    split = SimpleNamespace(captions=["Dogs in a park", "a dog in a park"])
    concepts = Concepts(["dogs", "park"])
    for tokenizer, expected in (("treebank", [[1, 1], [0, 1]]), ("bytes_repr", [[0, 1], [0, 1]])):
        vocab = Vocabulary([*SPECIALS, "park"], tokenizer=tokenizer)
        words = partial(split_captions, split.captions)
        assert caption_concepts(concepts, split, vocab, words, False).tolist() == expected


@pytest.mark.parametrize(
    ("kind", "state", "message"),
    [
        (Labels, {"words": ["dog", 3]}, "labels must be words, found 3"),
        (Labels, {"words": ["dog", "\u3000"]}, "labels must be words"),
        (Labels, {"words": ["dog"], "positives": [5], "images": 4}, "between 0 and the 4 images"),
        (Labels, {"words": ["dog"], "groups": ["OBJ"]}, "must be a label list"),
        (Concepts, {"words": ["dog", None]}, "concepts must be words, found None"),
        (Concepts, {"words": ["dog"], "positives": [5]}, "is not a list of concepts"),
        (Concepts, {"words": ["dog"], "counts": 7}, "w.json"),
    ],
)
def test_values_of_a_list_are_checked(tmp_path, kind, state, message):
    (tmp_path / "w.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=message):
        kind.load(tmp_path / "w.json")
