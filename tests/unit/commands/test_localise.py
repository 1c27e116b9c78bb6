"""`itm.localise` names first what no other data could mend."""

import numpy as np
import pytest

from itm import explain, localise, search
from itm.app import entry
from itm.matcher.saved import save
from itm.models import VSEPP
from itm.text.vocabulary import Vocabulary

CAPTIONS = ["a red dog", "two cats"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A split without phrases, and a matcher that scores no regions."""
    np.save(tmp_path / "test_ims.npy", np.ones((2, 4, 8), np.float32))
    (tmp_path / "test_caps.txt").write_text("\n".join(CAPTIONS) + "\n")
    matcher = VSEPP(7, img_dim=8, word_dim=4, embed_dim=8)
    matcher.vocab = Vocabulary.build(CAPTIONS, 1)
    save(matcher, tmp_path / "vsepp")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")  # as the entry point does
    return tmp_path


@pytest.mark.parametrize(
    "options, message",
    [
        ((), "VSEPP compares whole images with whole sentences, so it scores no regions"),
        (("image=nowhere", "phrases=nowhere"), "VSEPP compares whole images"),
        (("context=word",), "context must be 'caption' or 'phrase', got 'word'"),
    ],
)
def test_a_matcher_without_regions_is_named_before_missing_phrases(
    options, message, folder, monkeypatch
):
    common = ["checkpoint=vsepp", "data=f30k", "data.root=.", "hydra.run.dir=out"]
    monkeypatch.setattr("sys.argv", ["itm.localise", *common, *options])
    with pytest.raises(ValueError, match=message):
        entry.call("localise", localise.command)


@pytest.mark.parametrize("command", [localise, explain, search])
def test_one_matcher_is_not_a_list(command, folder, monkeypatch):
    name = command.__name__.rpartition(".")[2]
    options = ["checkpoint=[vsepp,vsepp]", "data=f30k", "data.root=."]
    monkeypatch.setattr("sys.argv", [name, *options])
    with pytest.raises(
        ValueError, match=r"checkpoint=\[vsepp,vsepp\] must be one path: only itm.ev"
    ):
        entry.call(name, command.command)
