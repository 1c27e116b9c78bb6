"""Whatever is asked of a checkpoint, it is read once; the rows and files are those of the list."""

import json

import numpy as np
import torch

import itm.checkpoints.folder as folder
from itm import evaluate
from itm.matcher.saved import save
from itm.models import VSRN
from itm.text.vocabulary import Vocabulary

CAPTIONS = ["a red dog", "a dog runs", "two cats", "a cat sits", "a bird", "one blue bird"]


def test_a_checkpoint_is_loaded_once(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "test_ims.npy", rng.normal(size=(3, 4, 8)).astype(np.float32))
    (tmp_path / "test_caps.txt").write_text("\n".join(CAPTIONS) + "\n")
    vocab = Vocabulary.build(CAPTIONS, 1)
    torch.manual_seed(0)
    sizes = {"word_dim": 4, "embed_dim": 8, "caption_dim": 8, "caption_word_dim": 4}
    matcher = VSRN(len(vocab), img_dim=8, **sizes).eval()
    matcher.vocab = vocab
    save(matcher, tmp_path / "saved")
    loaded, load = [], folder.load
    monkeypatch.setattr(folder, "load", lambda path, *a: (loaded.append(path), load(path, *a))[1])
    monkeypatch.chdir(tmp_path)
    options = ["data=flickr8k", "data.root=.", "describe=true", "plot=false", "hydra.run.dir=out"]
    monkeypatch.setattr("sys.argv", ["itm.evaluate", "checkpoint=[saved,saved]", *options])
    evaluate._main()
    assert loaded == ["saved"]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert list(report["results"]) == ["saved", "saved #2", "ensemble of 2"]
    assert len(report["checkpoints"]) == 2 and list(report["captioning"]) == ["saved"]
    assert len((tmp_path / "out/described_0.txt").read_text().splitlines()) == 3
    assert {p.name for p in (tmp_path / "out").glob("ranks_*")} == {
        f"ranks_{i}.npz" for i in range(3)
    }
    assert "saved: bleu_1" in capsys.readouterr().out
