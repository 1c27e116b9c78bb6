"""Check that a pretrained transformer can encode the captions of any backbone that reads words."""

from importlib.metadata import version

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from cli import run

import itm
from itm.app.build import build
from itm.layers import text
from itm.layers.text import BertText, transformer_mask
from itm.text.vocabulary import BertVocabulary

MODELS = {
    "scan_t2i": [],
    "vsrn": ["model.num_gcn=1", "model.caption_dim=16", "model.caption_word_dim=16"],
    "sgr": ["model.sim_dim=16"],
    "cvse": [],
    "casc": ["model.hidden=16"],
    "chan": [],
    "two_branch_embedding": ["model.hidden_dim=16"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Write a two-layer transformer with random weights and a word-piece vocabulary of letters."""
    from transformers import BertConfig, BertModel, BertTokenizer

    path = tmp_path_factory.mktemp("bert")
    letters = [chr(97 + i) for i in range(26)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", ",", "red", "dog", "ball"]
    (path / "vocab.txt").write_text("\n".join([*words, *letters, *(f"##{x}" for x in letters)]))
    BertTokenizer(str(path / "vocab.txt")).save_pretrained(path)
    torch.manual_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(words) + 52,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
        )  # fmt: skip
    ).save_pretrained(path)
    return path


@pytest.mark.parametrize("model", MODELS)
def test_any_backbone(model, folder):
    small = ["model.embed_dim=16", "data.limit=24", "data.batch_size=24"]
    bert = ["text=bert", f"model.text.path={folder}", "model.text.finetune=true"]
    matcher = build(model, overrides=[*small, *bert, *MODELS[model], "model.text.lr_scale=0.5"])
    assert isinstance(matcher.vocab, BertVocabulary)
    rates = {g["name"]: g.get("lr_scale", 1.0) for g in matcher.parameter_groups()}
    assert rates["bert"] == 0.5
    assert matcher.text.bert.training
    before = {k: v.clone() for k, v in matcher.state_dict().items() if ".bert." in k}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2, limit_val_batches=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(matcher, datamodule=matcher.data)
    # A parameter that is trained but gets no gradient would stop DDP at the second step.
    matcher.losses(next(iter(matcher.data.train_dataloader())))["total"].backward()
    trained = {name for name, x in matcher.named_parameters() if x.requires_grad}
    assert trained == {name for name, x in matcher.named_parameters() if x.grad is not None}
    assert any(".bert." in name for name in trained) and not any("pooler" in x for x in trained)
    after = matcher.state_dict()
    assert before and any(not torch.equal(v, after[k]) for k, v in before.items())
    matcher.eval()
    features = np.random.default_rng(0).normal(size=(2, 12, 64)).astype(np.float32)
    alone = matcher.score(features, ["a red ball"])
    padded = matcher.score(features, ["a red ball", "two dogs and a red ball on the grass"])
    np.testing.assert_allclose(padded[:, 0], alone[:, 0], atol=1e-6)


def test_the_saved_matcher_needs_no_folder(folder, tmp_path):
    run("train", "trainer=fast", "model.embed_dim=16", "model.caption_weight=0", "text=bert",
        f"model.text.path={folder}", "hydra.run.dir=run", cwd=tmp_path)  # fmt: skip
    matcher = itm.load(tmp_path / "run")
    tokens = matcher.vocab.decode(matcher.vocab.encode("Red dogs"))
    assert tokens == ["[CLS]", "red", "dog", "##s", "[SEP]"]
    saved = itm.matcher.saved.save(matcher, tmp_path / "saved")
    again = itm.load(saved)
    features = np.random.default_rng(0).normal(size=(2, 12, 64)).astype(np.float32)
    np.testing.assert_array_equal(
        again.score(features, ["a red ball"]), matcher.score(features, ["a red ball"])
    )


def test_it_asks_for_a_folder(tmp_path):
    text = run("train", "text=bert", "trainer=fast", cwd=tmp_path, fails=True)
    assert "text=bert needs model.text.path=FOLDER_OR_HUB_NAME" in text


def test_the_version_of_transformers_is_looked_up_once(monkeypatch):
    asked = []
    monkeypatch.setattr(text, "version", lambda name: asked.append(name) or version(name))
    for _ in range(3):
        transformer_mask(torch.ones(2, 3, dtype=torch.bool, device="meta"))
    assert len(asked) <= 1  # another test may have asked


def test_a_transformer_saved_in_half_precision_computes_in_float32(folder, tmp_path):
    from transformers import AutoModel

    AutoModel.from_pretrained(folder).half().save_pretrained(tmp_path)
    encoder = BertText(embed_dim=8, path=str(tmp_path), finetune=True)
    again = BertText(embed_dim=8, **encoder.saved_arguments())
    for made in (encoder, again):
        assert {x.dtype for x in made.parameters()} == {torch.float32}
