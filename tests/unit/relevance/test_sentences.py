"""Relevance from a text encoder equals the plain computation, and evaluation reports it."""

import json

import cli
import numpy as np
import pytest
import torch

from itm.metrics.all_metrics import evaluate_all
from itm.metrics.retrieval import evaluate
from itm.relevance import relevance, sentence_similarity
from itm.relevance.sources import check_source

CAPTIONS = ["a red ball", "two dogs", "a dog on the grass", "a ball , a dog", "grass", "a red dog"]
REFERENCES = [CAPTIONS[:2], CAPTIONS[2:5], CAPTIONS[5:]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A small BERT with random weights."""
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("encoder")
    words = sorted({word for caption in CAPTIONS for word in caption.split()})
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocab))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(vocab_size=len(vocab), intermediate_size=16, initializer_range=1.0, **sizes)
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def plain(folder):
    """One sentence at a time, without padding."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    with torch.no_grad():
        mean = [
            model.eval()(**tokenizer(c, return_tensors="pt")).last_hidden_state[0].mean(0)
            for c in CAPTIONS
        ]
    unit = [v / v.norm() for v in mean]
    rows = [CAPTIONS.index(c) for own in REFERENCES for c in own]
    cosines = np.array([[float(unit[a] @ unit[b]) for b in rows] for a in range(len(CAPTIONS))])
    groups = np.split(cosines, [2, 5], axis=1)
    return np.maximum(np.stack([group.mean(1) for group in groups], 1), 0)


def test_it_is_the_mean_cosine_with_the_references(encoder):
    found = sentence_similarity(CAPTIONS, REFERENCES, encoder, batch_size=4)
    assert found.shape == (6, 3) and found.dtype == np.float32
    np.testing.assert_allclose(found, plain(encoder), atol=1e-5)
    np.testing.assert_array_equal(relevance(str(encoder), CAPTIONS, REFERENCES), found)


def test_an_image_without_references_is_named(encoder):
    with pytest.raises(ValueError, match="image 1 has no reference captions"):
        sentence_similarity(CAPTIONS, [CAPTIONS[:2], []], encoder)


def test_its_metrics_have_names_of_their_own():
    rng, image = np.random.default_rng(0), np.repeat(np.arange(8), 2)
    scores, cider, text = rng.random((8, 16)), rng.random((16, 8)), rng.random((16, 8))
    found, _ = evaluate_all(scores, image, relevance=cider, sentences=text)
    for given, prefix in ((cider, ""), (text, "text_")):
        for name, value in evaluate(scores, image, relevance=given).items():
            way, rest = name[:4], name[4:]
            graded = rest.startswith(("ncs", "sr", "ndcg"))
            assert found[f"{way}{prefix}{rest}" if graded else name] == value


def test_evaluation_takes_cider_and_an_encoder(encoder, tmp_path):
    np.save(tmp_path / "scores.npy", np.random.default_rng(0).random((20, 100)).astype("f"))
    data = ["data=scenes", "data.limit=20", "data.root.images=[40,20,20]"]
    cli.run(
        "evaluate", f"similarity={tmp_path / 'scores.npy'}", f"relevance=[cider,{encoder}]", *data,
        "plot=false", "hydra.run.dir=out", cwd=tmp_path,
    )  # fmt: skip
    (row,) = json.loads((tmp_path / "out/report.json").read_text())["results"].values()
    assert row["i2t_ncs_10"] != row["i2t_text_ncs_10"] and "t2i_text_sr_out_1" in row
    text = cli.run(
        "evaluate", f"similarity={tmp_path / 'scores.npy'}", "relevance=[cider,spice]", *data,
        cwd=tmp_path, fails=True,
    )  # fmt: skip
    assert "at most one of cider, spice and a file" in text


def test_a_folder_that_is_no_text_encoder_is_named_before_scoring(encoder, tmp_path):
    from transformers import BertModel, BertTokenizer
    from vision import save_vit

    untold = tmp_path / "untold"  # transformers makes a tokeniser of special tokens
    BertModel.from_pretrained(encoder).save_pretrained(untold)
    with pytest.raises(ValueError, match="untold has no tokeniser"):
        check_source(str(untold))
    (tmp_path / "vocab.txt").write_text("\n".join(f"word{i}" for i in range(99)))
    BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(untold)
    with pytest.raises(ValueError, match="they do not belong together"):
        sentence_similarity(CAPTIONS, REFERENCES, untold)
    seeing = tmp_path / "seeing"
    seeing.mkdir()
    save_vit(seeing)
    BertTokenizer.from_pretrained(encoder).save_pretrained(seeing)
    with pytest.raises(ValueError, match="seeing is not a text encoder of transformers"):
        sentence_similarity(CAPTIONS, REFERENCES, seeing)


def test_a_long_sentence_is_cut_at_the_positions_of_the_encoder(encoder):
    long = "a dog " * 400
    found = sentence_similarity([long, "a dog " * 256], REFERENCES, encoder)
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("source", ["cider", "encoder"])
def test_references_are_lists(source, encoder):
    source = str(encoder) if source == "encoder" else source
    with pytest.raises(TypeError, match="references of image 0 must be a list .* string 'a dog'"):
        relevance(source, ["a dog"], ["a dog", "a red ball"])
