"""The options of the data module: written once, listed flat in conf/data/base.yaml."""

import inspect
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from corpus import write
from omegaconf import OmegaConf

from itm.app.config import CONF
from itm.data.module import RegionDataModule
from itm.data.options import Loading, Splits, WordLists
from itm.text.vocabulary import SPECIALS, Vocabulary

BASE = OmegaConf.to_container(OmegaConf.load(Path(CONF, "data", "base.yaml")), resolve=False)
OWN = {"root": "???", "sentences": None, "seed": "${seed}"}  # of the data set, loss and run
ABSENT = {"needs", "phrases"}  # filled by the model and the loss; of data=phrases only


def test_the_yaml_lists_every_option_with_its_default():
    options = {field.name: field.default for field in fields(RegionDataModule)}
    assert BASE["_target_"] == "itm.data.RegionDataModule"
    assert BASE.keys() - {"_target_"} == options.keys() - ABSENT
    for name in options.keys() - ABSENT:
        assert BASE[name] == OWN.get(name, options[name]), name


def test_the_constructor_takes_the_options_of_all_groups_flat():
    parameters = inspect.signature(RegionDataModule).parameters
    groups = {field.name for group in (Splits, WordLists, Loading) for field in fields(group)}
    assert parameters.keys() == groups
    assert parameters["root"].default is inspect.Parameter.empty
    assert parameters["batch_size"].default == 128


@pytest.mark.parametrize("group", [Splits, WordLists, Loading])
def test_every_option_is_documented(group):
    source = inspect.getsource(group)
    for field in fields(group):
        _, _, after = source.partition(f"    {field.name}: ")
        assert after.split("\n")[1].startswith('    """'), field.name


def test_unknown_options_and_needs_are_named(tmp_path):
    with pytest.raises(TypeError, match="batchsize"):
        RegionDataModule(tmp_path, batchsize=3)
    with pytest.raises(ValueError, match=r"needs=\['words'\]: expected some of labels, concepts"):
        RegionDataModule(tmp_path, needs=["labels", "words"])
    with pytest.raises(ValueError, match=r"needs='labels' must be a list of names: \['labels'\]"):
        RegionDataModule(tmp_path, needs="labels")


@pytest.mark.parametrize("name", ["train", "val", "test"])
def test_a_split_without_a_name_is_refused(tmp_path, name):
    for value in (None, "", 3):
        with pytest.raises(ValueError, match=rf"data.{name} must be the name of a split.*limit_va"):
            RegionDataModule(tmp_path, **{name: value})


def test_options_can_be_changed_before_use_and_modules_are_told_apart(tmp_path):
    write(tmp_path, "train")
    data, other = (RegionDataModule(str(tmp_path), min_count=1) for _ in range(2))
    assert data != other and len({data, other}) == 2 and data.root == tmp_path
    data.setup()
    data.batch_size = 10
    assert len(data.train_dataloader()) == 3


def test_a_vocabulary_of_ones_own(tmp_path):
    write(tmp_path, "train")
    words = Vocabulary([*SPECIALS, "dog"])
    data = RegionDataModule(tmp_path, vocab=words)
    data.setup()
    assert data.vocabulary is words
    words.save(tmp_path / "vocab.json")
    data = RegionDataModule(tmp_path, vocab=tmp_path / "vocab.json")
    data.setup()
    assert data.vocabulary == words


@pytest.mark.parametrize(("name", "what"), [("nope", "no such folder"), ("file", "not a folder")])
def test_a_missing_folder_is_named_at_once(name, what, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=rf"data.root=.*{name}: {what}; .* train_ims.npy"):
        RegionDataModule(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 2.5}, "data.batch_size must be a whole number, got 2.5"),
        ({"batch_size": None}, "data.batch_size must be a whole number, got None"),
        ({"seed": None}, "data.seed must be a whole number, got None"),
        ({"min_count": "4"}, "data.min_count must be a whole number, got '4'"),
        ({"workers": True}, "data.workers must be a whole number, got True"),
        ({"seed": -1}, "data.seed must be at least 0"),
        ({"protocol": "f30k1k"}, "protocol must be 'full', 'f30k_1k'"),
    ],
)
def test_values_without_a_meaning_are_refused_at_once(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        RegionDataModule(tmp_path, **options)
    RegionDataModule(tmp_path, batch_size=np.int64(3), limit=None, val_images=None)


def test_needs_that_are_set_after_a_batch_are_met(tmp_path):
    write(tmp_path)
    data = RegionDataModule(tmp_path, batch_size=5, min_count=1)
    data.setup()
    assert next(iter(data.train_dataloader())).captions.labels is None
    data.needs = ["labels", "relevance"]
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch.captions.labels is not None and batch.relevance.shape == (5, 5)


@pytest.mark.parametrize("drawn", ["noise_ratio", "word_drop", "region_drop"])
def test_the_seed_is_set_before_anything_is_drawn_by_it(drawn, tmp_path):
    """Noise or augmentation had kept the first seed, while the order followed the second."""
    write(tmp_path)
    data = RegionDataModule(tmp_path, min_count=1, **{drawn: 0.5})
    data.seed = 1
    data.setup()
    data.reader("train")
    data.seed = 1
    with pytest.raises(ValueError, match="data.seed was read as 1 and cannot become 2 any more"):
        data.seed = 2
    data = RegionDataModule(tmp_path, min_count=1, batch_size=5)
    data.setup()
    data.reader("train")
    data.seed = 2
    assert data.train_sampler().seed == 2
