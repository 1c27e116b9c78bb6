"""Features on the device: batches are those of the loader, and no feature is read for them."""

import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from cli import run
from corpus import write
from fast import FAST

from itm.batch import Captions, Images
from itm.data.layout import read_split
from itm.data.module import RegionDataModule
from itm.data.resident import read_table
from itm.losses import Triplet
from itm.models import SCAN


@pytest.fixture
def folder(tmp_path):
    for name, repeat in (("train", 5), ("dev", 1), ("test", 1)):
        write(tmp_path, name, images=7, repeat=repeat, dtype=np.float16)
    return tmp_path


def module(folder, **options):
    data = RegionDataModule(folder, batch_size=8, eval_batch_size=4, seed=3, **options)
    data.setup()
    return data


def every(data, **stage):
    """All batches of a stage as a trainer hands them out."""
    data.trainer = SimpleNamespace(
        **{
            "training": False,
            "testing": False,
            "limit_val_batches": None,
            "limit_test_batches": None,
            **stage,
        }
    )
    loaders = [data.train_dataloader()] if data.trainer.training else data.val_dataloader()
    loaders = data.test_dataloader() if data.trainer.testing else loaders
    return [data.on_after_batch_transfer(batch, 0) for loader in loaders for batch in loader]


def assert_equal(a, b):
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    elif isinstance(a, tuple):
        assert type(a) is type(b) and len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert a == b


@pytest.mark.parametrize("sentences", [1, 3])
@pytest.mark.parametrize("stage", ["training", "validating", "testing"])
def test_batches_are_those_of_the_loader(folder, stage, sentences):
    stage = {stage: True}
    read = every(module(folder, sentences=sentences), **stage)
    found = every(module(folder, sentences=sentences, resident=True), **stage)
    assert len(read) == len(found) > 1
    for a, b in zip(read, found, strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_the_regions_have_the_precision_of_the_trainer(folder, drop):
    """Lightning has turned the tensors of a batch into float64."""
    data = module(folder, resident=True, region_drop=drop)
    data.trainer = SimpleNamespace(training=True, testing=False)
    pairs = next(iter(data.train_dataloader()))
    double = pairs._replace(images=pairs.images._replace(regions=pairs.images.regions.double()))
    found, plain = (data.on_after_batch_transfer(x, 0).images.regions for x in (double, pairs))
    assert found.dtype == torch.float64 and plain.dtype == torch.float32
    torch.testing.assert_close(found.float(), plain)


def test_loaders_bring_no_features(folder):
    data = module(folder, resident=True)
    pairs = next(iter(data.train_dataloader()))
    assert pairs.images.regions.numel() == 0
    images, captions = (next(iter(loader)) for loader in data.val_dataloader())
    assert isinstance(images, Images) and images.regions.numel() == 0
    assert isinstance(captions, Captions)


@pytest.mark.parametrize("dtype", [True, "float32", "float16", "bfloat16"])
def test_the_table_has_the_type_that_was_asked_for(folder, dtype):
    split = read_split(folder, "train")
    table = read_table(split, torch.device("cpu"), dtype)
    wanted = torch.float16 if dtype is True else getattr(torch, dtype)
    assert table.dtype == wanted and table.shape == (7, 3, 4)
    expected = torch.from_numpy(split.images(np.arange(7))).to(wanted)
    torch.testing.assert_close(table, expected, rtol=0, atol=0)


def test_another_type_is_refused(folder):
    with pytest.raises(
        ValueError, match="data.resident must be 'float16', .* or 'float32', got 'int8'"
    ):
        read_table(read_split(folder, "train"), torch.device("cpu"), "int8")


def test_a_run_is_the_same_with_resident_features(tmp_path):
    small = (*FAST, "model=scan", "trainer.log_every_n_steps=2")
    for name, more in (("read", ()), ("resident", ("data.resident=true",))):
        run("train", *small, *more, f"hydra.run.dir={name}", cwd=tmp_path)
    a, b = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)
        for name in ("read", "resident")
    )
    for key, value in a["state_dict"].items():
        torch.testing.assert_close(value, b["state_dict"][key], rtol=0, atol=0)


def test_the_features_are_freed_after_a_training(folder):
    data = RegionDataModule(folder, batch_size=8, min_count=1, resident=True)
    data.setup()
    matcher = SCAN(len(data.vocabulary), data.split("train").width, 4, 8, loss=Triplet())
    gone = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, *_):
            gone.extend(weakref.ref(table) for table in data._tables.values())

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=1, limit_val_batches=0, callbacks=[Watch()],
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(matcher, data)
    assert [table() for table in gone] == [None]
    trainer.test(matcher, data, verbose=False)  # reads those that it needs


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_float16_features_are_sent_as_stored_and_widened_on_the_device(tmp_path, drop):
    for name in ("train", "dev"):
        write(tmp_path, name, dtype=np.float16)
    there = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    found = []
    for trainer in (None, there):
        data = RegionDataModule(tmp_path, batch_size=5, min_count=1, region_drop=drop)
        data.setup("fit")
        data.trainer = trainer
        found.append((next(iter(data.train_dataloader())), data))
    (plain, _), (sent, data) = found
    assert sent.images.regions.dtype == torch.float16
    widened = data.on_after_batch_transfer(sent, 0)
    assert widened.images.regions.dtype == torch.float32
    assert torch.equal(widened.images.regions, plain.images.regions)
    assert torch.equal(widened.images.mask, plain.images.mask)
    images = data.reader("val").images([0, 1])
    assert images.regions.dtype == torch.float16
    assert data.on_after_batch_transfer(images, 0).regions.dtype == torch.float32


def test_float32_features_are_sent_as_they_are(tmp_path):
    write(tmp_path)
    write(tmp_path, "dev")
    data = RegionDataModule(tmp_path, min_count=1)
    data.setup("fit")
    data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("meta")))
    assert data.reader("train").images([0]).regions.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["<f8", ">f4", ">f2"])
def test_types_that_are_read_as_float32_are_kept_as_float32(tmp_path, dtype):
    features = write(tmp_path, dtype=dtype)
    table = read_table(read_split(tmp_path, "train"), torch.device("cpu"), True)
    assert table.dtype == torch.float32
    np.testing.assert_array_equal(table, features.astype(np.float32))


def test_another_device_gets_a_table_of_its_own(folder):
    """A module that was trained on a GPU and is tested on a CPU."""
    data = module(folder, resident=True)
    batch = every(data, testing=True)[0]
    there = data.reader("test").images([0, 1])
    moved = there._replace(**{k: x.to("meta") for k, x in there._asdict().items()})
    assert data.on_after_batch_transfer(moved, 0).regions.device.type == "meta"
    assert_equal(data.on_after_batch_transfer(there, 0).regions, batch.regions[:2])
