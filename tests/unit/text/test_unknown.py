from types import SimpleNamespace

import numpy as np
import pytest
from corpus import write

from itm.data.module import RegionDataModule
from itm.data.word_lists import build_vocabulary
from itm.index.answers import tell_unknown
from itm.text.concepts import Concepts
from itm.text.labels import Labels
from itm.text.tokenizers import split_characters
from itm.text.unknown import check_known, count_unknown
from itm.text.vocabulary import SPECIALS, BertVocabulary, Vocabulary, vocabulary_from
from itm.text.words import split_captions

CHINESE = ["一只黑色的狗在草地上奔跑。", "两只白色的狗看着镜头。", "一只猫在草地上。"]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("一只狗。", ["一", "只", "狗", "。"]),
        ("黒い犬が走る", list("黒い犬が走る")),
        ("Ein GROẞER Hund, läuft!", ["ein", "großer", "hund", ",", "läuft", "!"]),
        ("Собака бежит.", ["собака", "бежит", "."]),
        ("कुत्ता दौड़ता है।", ["कुत्ता", "दौड़ता", "है", "।"]),
        ("หมา dog's ２匹", ["ห", "ม", "า", "dog's", "2", "匹"]),
        ("un chien - ou l'autre (petit)", ["un", "chien", "-", "ou", "l'autre", "(", "petit", ")"]),
    ],
)
def test_characters(caption, words):
    assert split_characters(caption) == words


def test_a_vocabulary_of_characters_round_trips(tmp_path):
    vocab = Vocabulary.build(CHINESE, 1, "characters")
    vocab.save(tmp_path / "v.json")
    for other in (Vocabulary.load(tmp_path / "v.json"), vocabulary_from(vocab.state())):
        assert other == vocab and "狗" in other.decode(other.encode("狗"))
    assert count_unknown(vocab, CHINESE).share == 0


@pytest.mark.parametrize("kind", [Labels, Concepts])
def test_labels_and_concepts_of_characters_round_trip(kind, tmp_path):
    made = kind.build(CHINESE, 5, tokenizer="characters")
    made.save(tmp_path / "words.json")
    read = kind.load(tmp_path / "words.json")
    assert read.words == made.words and "狗" in read.words
    table = read.label_images(CHINESE, [0, 0, 1], 2)
    np.testing.assert_array_equal(table[:, read.words.index("狗")], [1, 0])


def test_an_empty_vocabulary_is_an_error_that_names_the_remedies():
    with pytest.raises(ValueError, match=r"no word .* 2 times.*data.min_count.*characters"):
        build_vocabulary(split_captions(CHINESE, "treebank"), 2)
    assert "狗" in build_vocabulary(split_captions(CHINESE, "characters"), 2).ids


def test_unknown_words_are_refused_or_told(capsys):
    vocab = Vocabulary([*SPECIALS, "a", "dog"])
    check_known(vocab, ["a dog a dog"], 0.5, "them")
    assert not capsys.readouterr().out
    check_known(vocab, ["a dog", "a cat"], 0.5, "them")
    assert "25% of the words of them are unknown" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"67% .* unknown .*'der'.*at most 50%.*data.max_unknown"):
        check_known(vocab, ["a dog", "der hund", "der baum"], 0.5, "them")
    check_known(vocab, ["der hund"], 1.0, "them")


def test_a_vocabulary_that_drops_words_must_know_one_of_each_caption():
    vocab = Vocabulary([SPECIALS[0], "dog"], markers=False, tokenizer="whitespace")
    assert count_unknown(vocab, ["the dog is on the grass", "der hund"]).share == 0.5


def test_training_refuses_captions_of_another_language(tmp_path, capsys):
    for name in ("train", "dev", "test"):
        write(tmp_path, name)
    other = Vocabulary([*SPECIALS, "ein", "hund"])
    data = RegionDataModule(tmp_path, vocab=other)
    data.setup()
    with pytest.raises(ValueError, match=r"100% of the words of the captions of split train"):
        data.train_dataloader()
    data = RegionDataModule(tmp_path, vocab=other, max_unknown=1)
    data.setup()
    data.train_dataloader()
    assert "100% of the words of the captions of split train are unknown" in capsys.readouterr().out


def transformer(path, words, positions=512, rows=None, kind="bert"):
    """Write a configuration and, if there are words, a tokeniser; no weights are needed."""
    from transformers import BertConfig, BertTokenizer, RobertaConfig

    config = {"bert": BertConfig, "roberta": RobertaConfig}[kind]
    size = rows or 5 + len(words)
    config(vocab_size=size, max_position_embeddings=positions, pad_token_id=1).save_pretrained(path)
    if words:
        markers = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        (path / "vocab.txt").write_text("\n".join([*markers, *words]), encoding="utf-8")
        BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)


def test_a_transformer_that_reads_nothing_is_refused(tmp_path):
    transformer(tmp_path, ["dog", "a", "runs"])
    vocab = BertVocabulary.from_pretrained(str(tmp_path))
    assert count_unknown(vocab, ["a dog", "a cat"]).share == 0.25
    with pytest.raises(ValueError, match="83% .* are unknown"):
        check_known(vocab, [CHINESE[2][:4] + " a dog"] * 2 + ["ein hund läuft"] * 4, 0.5, "them")


def test_a_transformer_without_tokeniser_or_with_that_of_another_is_refused(tmp_path):
    transformer(tmp_path / "none", [])
    with pytest.raises(ValueError, match=r"none has no tokeniser.*vocab.txt"):
        BertVocabulary.from_pretrained(str(tmp_path / "none"))
    (tmp_path / "small").mkdir()
    transformer(tmp_path / "small", ["dog", "cat"], rows=6)
    with pytest.raises(ValueError, match="7 word pieces, but the transformer has vectors for 6"):
        BertVocabulary.from_pretrained(str(tmp_path / "small"))


@pytest.mark.parametrize(("kind", "longest"), [("bert", 8), ("roberta", 6)])
def test_captions_end_at_the_positions_of_the_transformer(tmp_path, kind, longest, capsys):
    transformer(tmp_path, ["dog"], positions=8, kind=kind)
    vocab = BertVocabulary.from_pretrained(str(tmp_path))
    assert len(vocab.encode("dog " * 20)) == longest
    check_known(vocab, ["dog " * 20, "dog"], 0.5, "them")
    assert f"50.0% of them are cut after {longest} word pieces" in capsys.readouterr().out


def test_a_transformer_with_far_fewer_pieces_than_rows_is_refused(tmp_path):
    transformer(tmp_path, ["dog", "cat"], rows=100)
    with pytest.raises(ValueError, match="7 word pieces, but the transformer has vectors for 100"):
        BertVocabulary.from_pretrained(str(tmp_path))


def test_only_the_first_process_prints(monkeypatch, capsys):
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    vocab = Vocabulary([*SPECIALS, "dog"])
    for rank in (0, 1):
        monkeypatch.setattr(rank_zero_only, "rank", rank)
        check_known(vocab, ["ein dog"], 1.0, "them")
        assert bool(capsys.readouterr().out) == (rank == 0)


def test_a_given_vocabulary_and_a_transformer_contradict_each_other():
    from itm.app.build import build_data
    from itm.app.config import compose

    cfg = compose(["text=bert", "model.text.path=x", "data.vocab=v.json"])
    with pytest.raises(ValueError, match=r"data.vocab=v.json, but text=bert reads the word pieces"):
        build_data(cfg)


@pytest.mark.parametrize(
    "text", ["一只棕色的狗在草地上奔跑", "สุนัขสีน้ำตาลวิ่งบนสนามหญ้า", "茶色い犬が芝生を走っている"]
)
def test_sentences_without_blanks_are_not_words(text):
    """With min_count=1 every sentence would be a word, and nothing of the training unknown."""
    captions = [text, text[3:], text[:-3]] * 4
    with pytest.raises(ValueError, match=r"no blanks between words.*data.tokenizer=characters"):
        build_vocabulary(split_captions(captions, "treebank"), 1)
    assert len(build_vocabulary(split_captions(captions, "whitespace"), 1)) == 7
    assert len(build_vocabulary(split_captions(captions, "characters"), 1)) > 10
    divided = [" ".join(text[i : i + 2] for i in range(0, len(text), 2))] * 4
    assert len(build_vocabulary(split_captions(divided, "treebank"), 1)) > 8


def test_what_a_transformer_loses_of_a_query_is_told(tmp_path, capsys):
    """Every sentence of another script is the same [UNK] to it, so the ranking means nothing."""
    transformer(tmp_path, ["dog", "a"], positions=8)
    matcher = SimpleNamespace(vocab=BertVocabulary.from_pretrained(str(tmp_path)))
    tell_unknown(matcher, ["a dog"])
    assert capsys.readouterr().out == ""
    tell_unknown(matcher, ["a 狗", "狗"])
    told = capsys.readouterr().out
    assert "words the matcher does not know: 狗\n" in told
    assert "no word of '狗' is known" in told and "no word of 'a 狗'" not in told
    tell_unknown(matcher, ["dog " * 20])
    assert "is cut after 8 word pieces" in capsys.readouterr().out
