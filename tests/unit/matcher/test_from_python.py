"""A few lines of Python train every model with every loss, without Hydra."""

import ast
import inspect
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from pytorch_lightning.strategies import FSDPStrategy, ModelParallelStrategy
from pytorch_lightning.tuner import Tuner

import itm
import itm.losses
import itm.models
from itm.batch import Encoded
from itm.data import RegionDataModule
from itm.losses import SAM, InfoNCE, Logistic, MultiLabel, Neighborhood, Sigmoid, Triplet
from itm.matcher.matcher import Matcher
from itm.matcher.saved import save
from itm.models import CASC, CVSE, SCAN, SGRAF, VSRN, TwoBranchEmbedding, TwoBranchSimilarity
from itm.text.vocabulary import SPECIALS, Vocabulary

SMALL = {"embed_dim": 8, "word_dim": 4}
MODELS = {
    "scan": partial(SCAN, **SMALL, direction="i2t"),
    "vsrn": partial(VSRN, **SMALL, num_gcn=1, caption_dim=4, caption_word_dim=4, final_bn=True),
    "sgr": partial(SGRAF, **SMALL, sim_dim=4),
    "saf": partial(SGRAF, **SMALL, sim_dim=4, module="SAF"),
    "cvse": partial(CVSE, **SMALL, concept_dim=4),
    "casc": partial(CASC, **SMALL, hidden=4),
    "two_branch_embedding": partial(TwoBranchEmbedding, **SMALL, hidden_dim=8),
    "two_branch_similarity": partial(
        TwoBranchSimilarity, **SMALL, hidden_dim=8, joint_dims=[8, 4]
    ),
}  # fmt: skip
WITH_BATCH_NORM = ["vsrn", "sgr", "saf", "cvse", "two_branch_embedding", "two_branch_similarity"]


def plain(scores, pairs, encoded):
    return scores.sum() - 2 * scores.diagonal().sum()


LOSSES = {
    "triplet": Triplet, "sam": SAM, "neighborhood": Neighborhood, "multilabel": MultiLabel,
    "logistic": Logistic, "function": lambda: plain,
}  # fmt: skip


def write(folder, seed=0):
    rng = np.random.default_rng(seed)
    folder.mkdir(exist_ok=True)
    for split, images in (("train", 12), ("dev", 8), ("test", 8)):
        words = (["red", "blue", "green"], ["dog", "cat", "car"])
        lines = [f"a {rng.choice(words[0])} {rng.choice(words[1])} runs" for _ in range(5 * images)]
        features = rng.standard_normal((images, 4, 6)).astype(np.float32)
        np.save(folder / f"{split}_ims.npy", features)
        (folder / f"{split}_caps.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data") / "small")


def data_of(folder, **options):
    options = {"batch_size": 20, "min_count": 1, "num_labels": 5, "num_concepts": 4, **options}
    return RegionDataModule(folder, **options)


def trainer_of(folder, **options):
    return pl.Trainer(
        **{
            "accelerator": "cpu", "max_epochs": 1, "default_root_dir": folder, "logger": False,
            "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1,
            **options,
        }
    )  # fmt: skip


PAIRS = [(model, loss) for model in MODELS for loss in ("multilabel", "sam")]
PAIRS += [
    (model, loss) for model in ("vsrn", "casc") for loss in LOSSES if (model, loss) not in PAIRS
]


@pytest.mark.parametrize("model, loss", PAIRS)
def test_every_model_with_every_loss_in_one_go(model, loss, folder, tmp_path):
    matcher, data = MODELS[model](loss=LOSSES[loss]()), data_of(folder)
    trainer = trainer_of(tmp_path)
    trainer.fit(matcher, data)
    (results,) = trainer.test(matcher, data, verbose=False)
    assert 0 <= results["test/rsum"] <= 600
    assert matcher.vocab is data.vocabulary and matcher.hparams["vocab_size"] == len(matcher.vocab)
    assert matcher.hparams["img_dim"] == 6
    assert ("labels" in data.needs) == (model == "casc" or loss == "multilabel")
    again = type(matcher).load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    features, captions = np.load(folder / "test_ims.npy"), ["a red dog", "a car runs"]
    assert again.vocab.words == matcher.vocab.words
    for name in ("labels", "concepts"):
        mine, restored = getattr(matcher, name), getattr(again, name)
        assert (mine is None) == (restored is None) and (mine is None or mine.words)
    np.testing.assert_array_equal(
        again.score(features, captions), matcher.score(features, captions)
    )
    itm.load(trainer.checkpoint_callback.best_model_path)  # the same file by the library's own way


def test_a_matcher_of_given_sizes_takes_the_words(folder, tmp_path):
    data = data_of(folder)
    data.setup()
    matcher = VSRN(len(data.vocabulary), 6, **SMALL, loss=Triplet())
    before = {name: p.detach().clone() for name, p in matcher.image.named_parameters()}
    trainer_of(tmp_path).fit(matcher, data)
    assert matcher.vocab is data.vocabulary
    for name, p in matcher.image.named_parameters():
        assert not torch.equal(p, before[name]), name


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"vocab_size": 99}, r"SCAN was made with vocab_size=99, but the data have \d+"),
        ({"img_dim": 7}, "img_dim=7, but the data have 6"),
        ({"vocab_size": 99, "img_dim": 6}, "vocab_size=99"),
    ],
)
def test_sizes_that_do_not_fit_the_data_are_an_error(sizes, message, folder, tmp_path):
    matcher = SCAN(**SMALL, **sizes, loss=Triplet())
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path).fit(matcher, data_of(folder))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: CVSE(**SMALL, num_concepts=9), "num_concepts=9"),
        (lambda: CASC(**SMALL, num_labels=9), "num_labels=9"),
        (lambda: SGRAF(**SMALL, num_regions=7), "num_regions=7, but the data have 4"),
    ],
)
def test_counts_that_do_not_fit_the_data_are_an_error(make, message, folder, tmp_path):
    matcher = make()
    matcher.loss = Triplet()
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path).fit(matcher, data_of(folder))


def test_a_wrong_option_fails_before_the_data_are_there():
    with pytest.raises(TypeError, match="embed_dims"):
        VSRN(embed_dims=8)
    with pytest.raises(ValueError, match="module.*'SGR'.*'SAF'"):
        SGRAF(module="SAM")
    with pytest.raises(TypeError, match="direktion"):
        SCAN(direktion="i2t")


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_waiting_matcher_says_that_it_waits(folder, tmp_path):
    matcher = VSRN(**SMALL, loss=Triplet())
    with pytest.raises(ValueError, match="it has no weights and waits"):
        matcher.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="waits for a data module"):
        matcher.score(np.zeros((2, 4, 6), np.float32), ["a dog"])
    data = data_of(folder)
    data.setup()
    with pytest.raises(ValueError, match="waits for a data module"):
        trainer_of(tmp_path, limit_val_batches=0).fit(matcher, data.train_dataloader())


def test_what_is_set_while_it_waits_stays(folder, tmp_path):
    matcher = SCAN(**SMALL)
    matcher.loss, matcher.chunk_size = plain, 7
    matcher.optimizer = partial(torch.optim.SGD, lr=0.5)
    trainer_of(tmp_path).fit(matcher, data_of(folder))
    assert matcher.loss is plain and matcher.chunk_size == 7 and matcher.lr == 0.5


def test_a_type_that_is_set_while_it_waits_stays(folder):
    torch.manual_seed(0)
    matcher, data = SCAN(**SMALL).double(), data_of(folder)
    data.setup()
    matcher.take_data(data, "test")
    assert {x.dtype for x in matcher.parameters()} == {matcher.dtype} == {torch.float64}
    split = data.split("test")
    scores = matcher.score(split.view(), split.captions)
    np.testing.assert_allclose(scores, matcher.float().score(split.view(), split.captions), 1e-4)


def test_a_loaded_matcher_trains_in_training_mode(folder, tmp_path):
    matcher = MODELS["cvse"](loss=Triplet())
    trainer_of(tmp_path).fit(matcher, data_of(folder))
    save(matcher, tmp_path / "saved")
    loaded, modes = itm.load(tmp_path / "saved", loss=Triplet(warmup_steps=2)), []
    assert not loaded.training
    loaded.register_forward_pre_hook(lambda *_: modes.append(loaded.training))
    step = loaded.training_step
    loaded.training_step = lambda *a: modes.append(loaded.training) or step(*a)
    trainer_of(tmp_path).fit(loaded, data_of(folder))
    assert modes and all(modes) and loaded.loss.steps == 3


def test_training_without_a_loss_is_refused_at_the_start(folder, tmp_path):
    with pytest.raises(ValueError, match="this matcher has no loss"):
        trainer_of(tmp_path).fit(VSRN(**SMALL), data_of(folder))


def test_any_callable_can_be_set_as_loss():
    matcher = VSRN(9, 6, **SMALL, loss=Triplet())
    for loss in (plain, SAM(), None, plain, Triplet()):
        matcher.loss = loss
        assert matcher.loss is loss
    assert [name for name, _ in matcher.named_children()].count("loss") == 1


def test_a_matcher_with_words_brings_them(folder, tmp_path):
    words = Vocabulary([*SPECIALS, "a", "dog", "runs"])
    matcher = SCAN(len(words), 6, **SMALL, loss=Triplet())
    matcher.vocab = words
    data = data_of(folder)
    trainer_of(tmp_path).fit(matcher, data)
    assert data.vocabulary is words
    other = data_of(folder, vocab=Vocabulary([*SPECIALS, "cat"]))
    with pytest.raises(ValueError, match="leave data.vocab out"):
        trainer_of(tmp_path).fit(matcher, other)


def test_one_data_module_serves_matchers_with_other_needs(folder, tmp_path):
    data = data_of(folder)
    for matcher in (SCAN(**SMALL, loss=Triplet()), CASC(**SMALL, hidden=4, loss=SAM())):
        trainer_of(tmp_path).fit(matcher, data)
    assert list(data.needs) == ["labels", "relevance"]


def test_a_checkpoint_of_another_loss(folder, tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.fit(VSRN(**SMALL, loss=MultiLabel()), data_of(folder))
    path = trainer.checkpoint_callback.best_model_path
    assert VSRN.load_from_checkpoint(path).loss is None
    with pytest.warns(UserWarning, match="Triplet starts from its initial state"):
        again = VSRN.load_from_checkpoint(path, loss=Triplet(warmup_steps=5))
    assert isinstance(again.loss, Triplet)


# Lightning's own features -------------------------------------------------------------------


def test_the_learning_rate_finder(folder, tmp_path):
    matcher, data = VSRN(**SMALL, loss=Triplet()), data_of(folder, batch_size=2)
    assert matcher.lr == 2e-4
    found = Tuner(trainer_of(tmp_path)).lr_find(matcher, datamodule=data, num_training=25)
    assert matcher.lr == found.suggestion()
    optimizer = matcher.configure_optimizers()
    assert optimizer.param_groups[0]["lr"] == found.suggestion()


def test_the_batch_size_finder(folder, tmp_path):
    data = data_of(folder)
    found = Tuner(trainer_of(tmp_path)).scale_batch_size(
        VSRN(**SMALL, loss=Triplet()), datamodule=data, init_val=4, max_trials=2
    )
    assert data.batch_size == found > 4


@pytest.mark.parametrize(
    "options",
    [{"fast_dev_run": True}, {"limit_val_batches": 1}, {"limit_val_batches": 0.5}],
    ids=str,
)
def test_a_partial_validation_says_so(options, folder, tmp_path, capsys):
    data = data_of(folder, eval_batch_size=4)
    trainer = trainer_of(tmp_path, **options)
    trainer.fit(MODELS["saf"](loss=Triplet()), data)
    said = capsys.readouterr().out
    assert "of 8 images and" in said and "captions of dev, because the trainer limits" in said
    assert 0 <= trainer.callback_metrics["val/rsum"] <= 600


def test_a_whole_validation_says_nothing(folder, tmp_path, capsys):
    trainer_of(tmp_path, limit_val_batches=1.0).fit(SCAN(**SMALL, loss=Triplet()), data_of(folder))
    assert "limits" not in capsys.readouterr().out


def test_a_partial_validation_says_so_once(folder, tmp_path, capsys):
    matcher, data = SCAN(**SMALL, loss=Triplet()), data_of(folder, eval_batch_size=4)
    trainer_of(tmp_path, limit_val_batches=1, max_epochs=3).fit(matcher, data)
    assert capsys.readouterr().out.count("because the trainer limits") == 1
    trainer_of(tmp_path, limit_val_batches=1).validate(matcher, data, verbose=False)
    assert capsys.readouterr().out.count("because the trainer limits") == 1


@pytest.mark.parametrize("model", MODELS)
def test_a_size_of_zero_is_refused_at_once(model):
    with pytest.raises(ValueError, match="embed_dim must be at least 1, got 0"):
        MODELS[model](embed_dim=0)
    with pytest.raises(ValueError, match="vocab_size must be at least 1, got 0"):
        MODELS[model](vocab_size=0)


def test_overfitting_repeats_the_same_batches(folder, tmp_path):
    seen = []

    class Keep(pl.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.append(sorted(batch.captions.index.tolist()))

    trainer = trainer_of(tmp_path, overfit_batches=2, max_epochs=3, callbacks=[Keep()])
    trainer.fit(SCAN(**SMALL, loss=Triplet()), data_of(folder))
    assert len(seen) == 6 and seen[:2] == seen[2:4] == seen[4:]


@pytest.mark.parametrize(
    "options",
    [
        {"max_steps": 2, "max_epochs": -1}, {"accumulate_grad_batches": 2},
        {"limit_val_batches": 0},
        {"limit_train_batches": 2}, {"profiler": "simple"}, {"detect_anomaly": True},
        {"val_check_interval": 2}, {"num_sanity_val_steps": 0}, {"gradient_clip_val": 1.0},
        {"barebones": True, "logger": None, "enable_progress_bar": None,
         "enable_model_summary": None, "log_every_n_steps": None},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_options_of_the_trainer(options, folder, tmp_path):
    trainer = trainer_of(tmp_path, **options)
    trainer.fit(VSRN(**SMALL, loss=Triplet()), data_of(folder))
    assert trainer.global_step > 0


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_sixteen_bit_weights_are_refused_at_the_start(precision, folder, tmp_path):
    trainer = trainer_of(tmp_path, precision=precision)
    with pytest.raises(ValueError, match=rf"use precision={precision.split('-')[0]}-mixed"):
        trainer.fit(SCAN(**SMALL, loss=Triplet()), data_of(folder))
    assert trainer.global_step == 0


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
def test_strategies_that_divide_a_model_are_refused_at_the_start(strategy, tmp_path, monkeypatch):
    """Lightning itself would want a GPU first, so the strategy is put in its place."""
    trainer = trainer_of(tmp_path)
    matcher = SCAN(**SMALL, loss=Triplet())
    monkeypatch.setattr(type(trainer), "strategy", property(lambda self: strategy()))
    matcher.trainer = trainer
    with pytest.raises(ValueError, match=rf'{strategy.__name__} divides.*use strategy="ddp"'):
        matcher.setup("fit")


@pytest.mark.parametrize("model", WITH_BATCH_NORM)
def test_weight_averaging_with_batch_norms(model, folder, tmp_path):
    trainer = trainer_of(tmp_path, callbacks=[EMAWeightAveraging(decay=0.5)])
    matcher = MODELS[model](loss=Triplet())
    trainer.fit(matcher, data_of(folder))
    assert all(bool(x.isfinite().all()) for x in matcher.state_dict().values())


@pytest.mark.parametrize("model", WITH_BATCH_NORM)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_stochastic_weight_averaging_recomputes_batch_norms(model, folder, tmp_path):
    """It sets the momentum to None; the tests of the models compare the statistics."""
    averaging = StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=1)
    trainer = trainer_of(tmp_path, callbacks=[averaging], max_epochs=3)
    matcher = MODELS[model](loss=Triplet())
    trainer.fit(matcher, data_of(folder))
    norms = [m for m in matcher.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and all(m.running_mean.abs().sum() > 0 for m in norms)


# Types ----------------------------------------------------------------------------------------

SCRIPT = """
import pytorch_lightning as pl

from itm.data import RegionDataModule
from itm.losses import SAM
from itm.models import VSRN

data = RegionDataModule("data", batch_size=64)
matcher = VSRN(loss=SAM(), embed_dim=256)
trainer = pl.Trainer(max_epochs=1)
trainer.fit(matcher, data)
again = VSRN.load_from_checkpoint("best.ckpt")
scores = again.score(data.test_split.features, ["a red dog"])
"""
RIGHT = """
from functools import partial

import numpy as np
import torch

import itm
from itm.losses import Triplet
from itm.matcher import Matcher
from itm.models import CASC, CHAN, CVSE, SCAN

few: list[Matcher] = [
    CASC(direction="t2i", hidden=8, loss=SAM()), CHAN(pooling="Mean", beta=0.2),
    CVSE(alpha=0.3, dropout=0.1, concept_vectors=np.ones((3, 2))),
    SCAN(direction="i2t", optimizer=partial(torch.optim.SGD, lr=0.1), loss=Triplet(margin=0.1)),
]
few[0].loss = lambda scores, pairs, encoded: -scores.diagonal().mean()
"""
REVEALED = {
    "again": '"itm.models.vsrn.vsrn.VSRN"',
    "scores": "numpy.ndarray",
    "SCAN.load_from_checkpoint('x')": '"itm.models.SCAN"',
    "SCAN.from_pretrained('x')": '"itm.models.SCAN"',
    "itm.load('x').embed(captions=['a'])": "numpy.ndarray",
    "itm.build()": '"itm.matcher.matcher.Matcher"',
    "itm.Index(again, data.test_split).search('a dog')": "itm.index.index.Hit",
    "itm.metrics.evaluate(np.eye(2), np.arange(2))": "dict[str, float]",
}


@pytest.mark.slow
def test_a_script_of_a_user_is_typed(tmp_path):
    """mypy strict finds the types of all results, and a wrong argument of every constructor."""
    names = [f"itm.models.{name}" for name in itm.models.__all__]
    names += [f"itm.losses.{name}" for name in itm.losses.__all__ if name[0].isupper()]
    names.remove("itm.losses.Loss")  # the base class takes no arguments
    lines = [f"reveal_type({text})" for text in REVEALED]
    lines += [f"{name}(nonsense=3)" for name in names]
    lines += ["RegionDataModule('DIR', nonsense=3)"]
    (tmp_path / "script.py").write_text(SCRIPT + RIGHT + "\n".join(lines) + "\n")
    source = Path(itm.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "script.py", "--cache-dir", tmp_path / "cache"],
        capture_output=True, text=True, cwd=tmp_path,
        env={"MYPYPATH": "", "PYTHONPATH": str(source)},
    )  # fmt: skip
    found = done.stdout.splitlines()
    notes = [line for line in found if "Revealed type" in line]
    for note, expected in zip(notes, REVEALED.values(), strict=True):
        assert expected in note
    errors = [line for line in found if "error:" in line]
    assert len(errors) == len(names) + 1 and all("nonsense" in line for line in errors), done.stdout


def test_the_types_of_the_backbones_are_those_of_their_constructors():
    """Those with options in groups are written out in __init__.pyi, for checkers and editors."""
    stub = ast.parse(Path(itm.models.__file__).with_suffix(".pyi").read_text())
    written = {node.name: node.body[0].args for node in stub.body if isinstance(node, ast.ClassDef)}
    constructors = {name: getattr(itm.models, name).__init__ for name in itm.models.__all__}
    signatures = {name: inspect.signature(init) for name, init in constructors.items()}
    grouped = {
        name: signature
        for name, signature in signatures.items()
        if any(is_dataclass(p.default) for p in signature.parameters.values())
    }
    assert written.keys() == grouped.keys()
    for name, signature in grouped.items():
        expected = {}
        for parameter in list(signature.parameters.values())[1:]:
            group = parameter.default
            expected[parameter.name] = ... if is_dataclass(group) else group
            if is_dataclass(group):
                expected |= {field.name: field.default for field in fields(group)}
        args = written[name]
        positional = [a.arg for a in args.args[1:]]
        given = [*positional, *(a.arg for a in args.kwonlyargs)]
        defaults = [ast.literal_eval(d) for d in (*args.defaults, *args.kw_defaults)]
        assert dict(zip(given, defaults, strict=True)) == expected and given == list(expected)
        plain = [
            p.name
            for p in list(signature.parameters.values())[1:]
            if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        assert positional == plain, name


def test_packages_list_their_names():
    assert {"build", "load", "models", "losses", "__version__"} <= set(dir(itm))
    assert {"VSRN", "SCAN"} <= set(dir(itm.models)) and "SAM" in dir(itm.losses)
    assert {"scenes", "published", "explain", "localise"} <= set(dir(itm))
    assert itm.scenes.write_scenes and "base" not in dir(itm.losses)


def test_a_checkpoint_of_another_model(folder, tmp_path):
    trainer = trainer_of(tmp_path)
    trainer.fit(VSRN(**SMALL, loss=Triplet()), data_of(folder))
    path = trainer.checkpoint_callback.best_model_path
    for wrong in (SCAN, TwoBranchEmbedding):
        with pytest.raises(
            ValueError, match=f"holds a VSRN, not a {wrong.__name__}: use VSRN.load"
        ):
            wrong.load_from_checkpoint(path)
    with pytest.raises(TypeError, match="nonsense"):  # an argument of the right class
        VSRN.load_from_checkpoint(path, nonsense=1)

    class Mine(VSRN):
        """A subclass loads what its base saved."""

    assert isinstance(Mine.load_from_checkpoint(path), Mine)


CLI = """
import sys

from pytorch_lightning.cli import LightningCLI

import itm.models
from itm.data import RegionDataModule

LightningCLI(getattr(itm.models, sys.argv.pop(1)), RegionDataModule)
"""


@pytest.mark.parametrize(
    "model, options",
    [
        ("SCAN", ["--model.attention.direction", "i2t", "--model.optimizer", "torch.optim.AdamW"]),
        ("CASC", ["--data.num_labels", "5", "--model.head.hidden", "4"]),
    ],
)
def test_a_command_line_of_lightning(model, options, folder, tmp_path):
    pytest.importorskip("jsonargparse")
    (tmp_path / "script.py").write_text(CLI)
    small = ["--data.min_count", "1", "--data.batch_size", "20", "--model.embed_dim", "8"]
    done = subprocess.run(
        [
            sys.executable, "script.py", model, "fit", "--data.root", str(folder), *small, *options,
            "--model.loss", "itm.losses.Triplet", "--trainer.fast_dev_run", "1",
            "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
        ],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0 and "stopped: `max_steps=1` reached" in done.stderr, done.stderr


@pytest.mark.filterwarnings("ignore:The number of training batches", "ignore:The .* does not have")
def test_the_blocks_of_the_page_run(tmp_path, monkeypatch):
    """As they stand, but for sizes, the number of epochs and names of folders."""
    page = (Path(__file__).parents[3] / "docs" / "from_python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    assert len(blocks) == 4
    train, optimiser, load, callbacks = (
        block.replace("max_epochs=30", "max_epochs=1")
        .replace("VSRN(loss", "VSRN(embed_dim=8, word_dim=4, final_bn=True, loss")
        .replace("VSRN(\n", "VSRN(\n    embed_dim=8, word_dim=4, final_bn=True,\n")
        .replace(
            "pl.Trainer(",
            "pl.Trainer(max_epochs=2, " if "LastCheckpoint" in block else "pl.Trainer(",
        )
        for block in blocks
    )
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "DIR")
    names = {"features": np.ones((3, 4, 6), np.float32)}
    continues = ', ckpt_path="run/checkpoints/last.ckpt"'
    assert continues in callbacks
    for block in (train, load.split("matcher = itm.load")[0], optimiser):
        exec(block, names)
    assert names["results"]["test/rsum"] >= 0
    exec(callbacks.replace(continues, ""), names)
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    exec(callbacks.replace("max_epochs=2", "max_epochs=3"), names)
    assert names["trainer"].current_epoch == 3
    again = re.sub(r"matcher = VSRN.*\n", "", load).replace('"RUN"', '"run/checkpoints/last.ckpt"')
    exec(again, names)
    assert names["scores"].shape == (3, 2)
    assert len(itm.load("my_matcher").vocab) == len(names["matcher"].vocab)


def test_double_precision_reaches_the_model(tmp_path):
    """Features are widened from float16 only: Lightning has made float64 of all others."""
    write(tmp_path / "data")
    data = RegionDataModule(tmp_path / "data", batch_size=20, min_count=1)
    matcher, seen = SCAN(**SMALL, loss=Triplet()), set()
    encode = matcher.encode_images

    def watched(images):
        seen.add(images.regions.dtype)
        return encode(images)

    matcher.encode_images = watched
    trainer_of(tmp_path, precision="64-true").fit(matcher, data)
    assert seen == {torch.float64}


@pytest.mark.parametrize("model", ["scan", "saf", "vsrn"])
def test_a_matcher_that_was_trained_in_float64_scores(model, folder, tmp_path):
    """Lightning leaves its parameters in float64."""
    matcher, data = MODELS[model](loss=Triplet()), data_of(folder)
    trainer_of(tmp_path, precision="64-true", max_epochs=1).fit(matcher, data)
    split = data.test_split
    features, captions = split.images(np.arange(4)), split.captions[:6]
    scores = matcher.score(features, captions)
    assert scores.dtype == np.float32 and next(matcher.parameters()).dtype == torch.float64
    index = itm.Index(matcher, features, captions=captions)
    best = max(range(4), key=lambda i: scores[i, 2])
    assert index.search(captions[2], top=1)[0].item == best
    np.testing.assert_allclose(matcher.float().score(features, captions), scores, atol=1e-5)


def test_features_in_python_that_mean_nothing_are_refused(folder):
    data = data_of(folder)
    data.setup()
    matcher = MODELS["scan"](len(data.vocabulary), img_dim=6)
    matcher.vocab = data.vocabulary
    features, captions = data.test_split.images(np.arange(2)), ["a red dog", "a cat"]
    for wrong in (np.round(features).astype("i8"), features > 0, features.astype("c8"), "ab"):
        with pytest.raises(ValueError, match="features must be (floats|an array)"):
            matcher.score(wrong, captions)
    ragged = np.array([features[0], features[1][:3]], dtype=object)
    with pytest.raises(ValueError, match="must be floats, got an array of 2 objects"):
        matcher.score(ragged, captions)
    for empty in (features[:, :0], [features[0][:0]]):
        with pytest.raises(ValueError, match="hold no region of any image"):
            matcher.score(empty, captions)
    assert np.isfinite(matcher.score([features[0], features[1][:0]], captions)).all()


def test_a_data_module_serves_one_matcher_after_another(folder, tmp_path):
    """What the first one brought, such as neighbours and words, does not stay."""
    data, fresh = data_of(folder), data_of(folder)
    trainer_of(tmp_path).fit(MODELS["vsrn"](loss=Neighborhood()), data)
    assert data.sentences == 2
    fresh.setup()
    other = MODELS["scan"](loss=MultiLabel(), vocab_size=len(fresh.vocabulary), img_dim=6)
    other.vocab = Vocabulary([*SPECIALS, *sorted(fresh.vocabulary.words[4:])])
    trainer_of(tmp_path).fit(other, data)
    assert data.sentences == 1 and data.vocabulary is other.vocab and "labels" in data.needs
    second = MODELS["scan"](loss=Triplet())
    trainer_of(tmp_path).fit(second, data)
    assert data.needs == [] and second.vocab.words == fresh.vocabulary.words
    chosen = data_of(folder, sentences=3, needs=["labels"])
    trainer_of(tmp_path).fit(MODELS["vsrn"](loss=Neighborhood()), chosen)
    assert chosen.sentences == 3 and chosen.needs == ["labels"]


@pytest.mark.parametrize("models", [("scan", "casc"), ("casc", "scan")])
def test_a_run_can_be_resumed_without_the_matcher_before_it(models, folder, tmp_path):
    data = data_of(folder)
    for model in models:
        trainer = trainer_of(tmp_path / model)
        trainer.fit(MODELS[model](loss=Triplet()), data)
    again = trainer_of(tmp_path / models[1], max_epochs=2)
    path = trainer.checkpoint_callback.best_model_path
    again.fit(MODELS[models[1]](loss=Triplet()), data_of(folder), ckpt_path=path)
    assert again.current_epoch == 2


class Forgetful(Matcher):
    """A backbone of one's own that does not call `save_hyperparameters`."""

    def __init__(self, vocab_size=None, img_dim=6, embed_dim=8, loss=None):
        super().__init__(loss)
        self.text = torch.nn.Embedding(vocab_size, embed_dim)
        self.image = torch.nn.Linear(img_dim, embed_dim)

    def encode_images(self, images):
        return Encoded(self.image(images.regions.mean(1)))

    def encode_captions(self, captions):
        return Encoded(self.text(captions.tokens).mean(1))


def test_a_backbone_that_saves_no_hyperparameters_can_be_loaded(folder, tmp_path):
    matcher, trainer = Forgetful(loss=Triplet()), trainer_of(tmp_path)
    trainer.fit(matcher, data_of(folder))
    file = trainer.checkpoint_callback.best_model_path
    for loaded in (itm.load(file, model_class=Forgetful), Forgetful.load_from_checkpoint(file)):
        assert loaded.hparams["vocab_size"] == len(matcher.vocab)
        assert torch.equal(loaded.image.weight, matcher.image.weight)


def test_loading_restores_the_state_of_the_loss(folder, tmp_path):
    matcher, trainer = MODELS["scan"](loss=InfoNCE(temperature=0.2)), trainer_of(tmp_path)
    trainer.fit(matcher, data_of(folder))
    file = trainer.checkpoint_callback.best_model_path
    again = itm.load(file, loss=InfoNCE(temperature=0.5))
    torch.testing.assert_close(again.loss.state_dict(), matcher.loss.state_dict())
    with pytest.warns(UserWarning, match="another loss, so Sigmoid starts from its initial"):
        itm.load(file, loss=Sigmoid())
    save(matcher, tmp_path / "saved")
    itm.load(tmp_path / "saved", loss=InfoNCE())  # a folder holds no loss
    with pytest.raises(TypeError, match="loss must be a callable"):
        itm.load(tmp_path / "saved", loss="triplet")


def test_the_equation_of_a_loss_is_no_loss():
    for given in (itm.losses.triplet, partial(itm.losses.infonce, temperature=0.1)):
        with pytest.raises(TypeError, match=r"a matcher takes a loss object, such as .*Triplet"):
            MODELS["scan"](loss=given)


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_clipped_as_the_trainer_says(algorithm, folder, tmp_path):
    seen, matcher = {}, SCAN(**SMALL, loss=Triplet())

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            seen["raw"] = [p.grad.clone() for p in pl_module.parameters()]

        def on_train_batch_end(self, trainer, pl_module, *args):
            seen["clipped"] = [p.grad.clone() for p in pl_module.parameters()]

    trainer = trainer_of(
        tmp_path, gradient_clip_val=0.05, gradient_clip_algorithm=algorithm, callbacks=[Watch()],
        max_steps=1,
    )  # fmt: skip
    trainer.fit(matcher, data_of(folder))
    norm = torch.stack([x.norm() for x in seen["raw"]]).norm()
    assert norm > 0.05 and max(x.abs().max() for x in seen["raw"]) > 0.05
    for raw, clipped in zip(seen["raw"], seen["clipped"], strict=True):
        right = raw.clamp(-0.05, 0.05) if algorithm == "value" else raw * 0.05 / norm
        torch.testing.assert_close(clipped, right, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_a_fused_optimiser_clips_the_gradients_without_the_scale_of_16_mixed(
    make, folder, tmp_path
):
    weights = []
    for fused in (False, True):
        torch.manual_seed(0)
        matcher = SCAN(**SMALL, loss=Triplet(), optimizer=partial(make, lr=0.1, fused=fused))
        scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
        plugin = pl.plugins.MixedPrecision("16-mixed", "cpu", scaler)
        trainer = trainer_of(
            tmp_path, gradient_clip_val=0.05, plugins=[plugin], max_steps=3,
            accumulate_grad_batches=2,
        )  # fmt: skip
        trainer.fit(matcher, data_of(folder))
        assert scaler.get_scale() == 128  # no step was left out
        weights.append(matcher.state_dict())
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:You are trying to `self.log")
def test_one_batch_of_a_loop_of_ones_own_counts_each_time(folder):
    """Only under a trainer can an optimiser evaluate a batch once more in the same step."""
    data, matcher = data_of(folder), SCAN(**SMALL, loss=Triplet(warmup_steps=100))
    data.setup()
    matcher.take_data(data, "fit")
    batch = next(iter(data.train_dataloader()))
    for _ in range(3):
        matcher.training_step(batch, 0)
    assert int(matcher.loss.steps) == 3
    assert matcher.epoch_loss._pairs == 3 * len(batch.captions.lengths)


@pytest.mark.parametrize("read", [SCAN.load_from_checkpoint, itm.load])
def test_a_multi_label_loss_gets_its_trained_head_back(read, folder, tmp_path, recwarn):
    """Its sizes are those of the checkpoint's labels."""
    matcher, trainer = SCAN(**SMALL, loss=MultiLabel(hidden=4)), trainer_of(tmp_path, max_epochs=1)
    trainer.fit(matcher, data_of(folder))
    file = tmp_path / "m.ckpt"
    trainer.save_checkpoint(file)
    recwarn.clear()
    again = read(file, loss=MultiLabel(hidden=4))
    torch.testing.assert_close(again.loss.state_dict(), matcher.loss.state_dict())
    assert "loss.head.0.weight" in again.state_dict()
    assert not [w for w in recwarn if "initial state" in str(w.message)]
    trainer_of(tmp_path, max_epochs=1).fit(again, data_of(folder))  # the data bring the same labels


def test_a_batch_that_lbfgs_evaluates_again_counts_once(folder, tmp_path):
    """The warm-up and the mean of the loss are in batches; LBFGS calls its closure many times."""
    counts = []
    for make in (partial(torch.optim.LBFGS, max_iter=3), partial(torch.optim.SGD, lr=1e-3)):
        matcher = SCAN(**SMALL, loss=Triplet(warmup_steps=100), optimizer=make)
        trainer_of(tmp_path, max_epochs=2).fit(matcher, data_of(folder))
        counts.append((int(matcher.loss.steps), matcher.epoch_loss._pairs))
    assert counts[0] == counts[1] and counts[0][0] == 6


class WithObject(Forgetful):
    def __init__(self, vocab_size=None, img_dim=6, embed_dim=8, act=None, loss=None):
        super().__init__(vocab_size, img_dim, embed_dim, loss=loss)
        self.act = act


def test_objects_as_arguments_are_told_before_the_training():
    with pytest.warns(UserWarning, match="not loaded from its files, because of act: arguments"):
        WithObject(9, act=torch.nn.Tanh())
    with pytest.raises(TypeError, match=r"text must be a dict such as \{'name': 'gru'\}"):
        SCAN(9, 6, text="gru")


@pytest.mark.filterwarnings("ignore:.*many workers")
def test_foreign_batches_and_data_modules_are_named(folder, tmp_path):
    data = data_of(folder)
    data.setup()

    class Own(pl.LightningDataModule):
        def __init__(self, val):
            super().__init__()
            self.train_dataloader, self.val_dataloader = data.train_dataloader, val

    words = data.vocabulary
    for val, message in (
        (data.train_dataloader, "read batches of Images and of Captions, got Pairs"),
        (data.val_dataloader, "need the data module, .*a Own without val_split"),
    ):
        matcher = SCAN(len(words), 6, **SMALL, loss=Triplet())
        matcher.vocab = words
        with pytest.raises((TypeError, ValueError), match=message):
            trainer_of(tmp_path).fit(matcher, Own(val))


def test_the_name_of_a_class_that_is_none_is_named(tmp_path):
    matcher = SCAN(5, 6, **SMALL)
    matcher.vocab = Vocabulary([*SPECIALS, "a"])
    save(matcher, tmp_path)
    for given, message in (
        ("Mean", "model_class='Mean' cannot be imported"),
        ("nowhere.Mean", "model_class='nowhere.Mean' cannot be imported .*No module named"),
        ("itm.models.Mean", "model_class='itm.models.Mean' cannot be imported"),
        (dict, "is not a class of matchers"),
    ):
        with pytest.raises(ValueError, match=message):
            itm.load(tmp_path, model_class=given)


def several(params):
    return [torch.optim.SGD(params, lr=0.1)]


def as_lightning(optimizer):
    return {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "interval": "step"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": several}, "optimizer must make one optimiser .* got a list"),
        ({"optimizer": lambda params: None}, "optimizer must make one optimiser .* got a NoneType"),
        ({"scheduler": as_lightning}, r"scheduler must make one .* got a dict; .*Schedule\(make"),
        ({"scheduler": lambda optimizer: None}, "scheduler must make one .* got a NoneType"),
    ],
)
def test_what_makes_no_optimiser_is_named(options, message):
    matcher = SCAN(**SMALL, vocab_size=9, img_dim=6, loss=Triplet(), **options)
    with pytest.raises(TypeError, match=message):
        matcher.configure_optimizers()


def test_an_encoder_that_returns_no_encoding_is_named_in_validation(folder, tmp_path):
    class Bare(Forgetful):
        def encode_captions(self, captions):
            return super().encode_captions(captions).vector

    with pytest.raises(TypeError, match="encode_captions must return itm.batch.Encoded"):
        trainer_of(tmp_path).validate(Bare(loss=Triplet()), data_of(folder))


@pytest.mark.parametrize("name", ["labels", "concepts"])
@pytest.mark.parametrize("values", [[[7, 2]] * 3, [[-1.0, 1.0]] * 3, [[np.nan, 0]] * 3, [0, 1, 1]])
def test_labels_of_a_batch_are_0_or_1(name, values):
    """Numbers of labels would be taken for 0 and 1, with a loss that means nothing."""
    matcher = SCAN(**SMALL, vocab_size=9, img_dim=6, loss=Triplet())
    matcher.vocab = Vocabulary([*SPECIALS, "a", "dog"])
    features, captions = np.ones((3, 4, 6), np.float32), ["a dog"] * 3
    with pytest.raises(ValueError, match=f"{name} must be a matrix"):
        matcher.pairs(features, captions, **{name: np.array(values)})
    given = {name: torch.eye(3, dtype=torch.bool)}
    assert torch.equal(
        getattr(matcher.pairs(features, captions, **given).captions, name), torch.eye(3)
    )


@pytest.mark.parametrize("kind", [pl.callbacks.ModelCheckpoint, pl.callbacks.EarlyStopping])
@pytest.mark.parametrize("monitor, mode", [("val/rsum", "min"), ("val/i2t_medr", "max")])
def test_no_callback_keeps_or_awaits_the_worst_epoch(kind, monitor, mode, folder, tmp_path):
    """The default of Lightning's callbacks is "min"."""
    trainer = trainer_of(tmp_path, callbacks=[kind(monitor=monitor, mode=mode)])
    better = {"min": "max", "max": "min"}[mode]
    with pytest.raises(ValueError, match=f"{kind.__name__}: mode={mode} .*: set mode={better}"):
        trainer.fit(MODELS["scan"](loss=Triplet()), data_of(folder))
    trainer.callbacks.clear()
    trainer.callbacks.append(kind(monitor=monitor, mode=better))
    trainer.fit(MODELS["scan"](loss=Triplet()), data_of(folder))


def test_predictions_are_asked_of_the_matcher(folder, tmp_path):
    """Lightning had asked for a loader, and then failed to copy one of ours."""
    data, trainer = data_of(folder), trainer_of(tmp_path)
    matcher = MODELS["scan"](loss=Triplet())
    trainer.fit(matcher, data)
    for given in (data, data.test_dataloader()):
        with pytest.raises(ValueError, match=r"matcher.score\(features, captions\)"):
            trainer.predict(matcher, given)

    class Predicts(SCAN):
        def predict_step(self, batch, batch_idx):
            return self.encode_images(batch).parts

    own = Predicts(len(data.vocabulary), 6, **SMALL)
    with pytest.raises(ValueError, match="no loader for trainer.predict.*give trainer.predict a"):
        trainer.predict(own, data)
    rows = torch.utils.data.DataLoader(
        range(8), batch_size=4, collate_fn=data.reader("test").images
    )
    assert [len(x) for x in trainer.predict(own, rows)] == [4, 4]


@pytest.mark.parametrize(
    "name, value",
    [
        ("limit", 4), ("fraction", 0.5), ("noise_ratio", 0.5), ("root", "elsewhere"),
        ("val_images", 2), ("min_count", 2), ("vocab", "vocab.json"), ("word_drop", 0.1),
        ("num_labels", 3), ("resident", True), ("region_drop", 0.1),
    ],
)  # fmt: skip
def test_options_that_were_read_are_not_set_any_more(name, value, folder, tmp_path):
    """They had no effect, or half of it; `resident` took features for numbers of regions."""
    data, loss = data_of(folder), MultiLabel()
    setattr(data, name, getattr(data, name))
    trainer_of(tmp_path).fit(MODELS["scan"](loss=loss), data)
    before = getattr(data, name)
    setattr(data, name, before)
    with pytest.raises(ValueError, match=f"data.{name} was read as .*: make a new Region.*{name}="):
        setattr(data, name, value)
    assert getattr(data, name) == before
    data.batch_size, data.test, data.protocol = 7, "dev", "full"  # still to be read
    assert len(next(iter(data.train_dataloader())).captions.lengths) == 7
    assert data.test_split.name == "dev"


def test_a_split_is_asked_for_by_its_stage(folder):
    with pytest.raises(ValueError, match="stage must be 'train', 'val' or 'test', got 'dev'"):
        data_of(folder).split("dev")


def test_weights_that_are_not_numbers_are_not_loaded(folder, tmp_path):
    """Only the scores of a matcher after a training that diverged were refused, by the metrics."""
    trainer, matcher = trainer_of(tmp_path), MODELS["scan"](loss=Triplet())
    trainer.fit(matcher, data_of(folder))
    with torch.no_grad():
        matcher.image.weight[0, 0] = torch.nan
        matcher.image.bias[1] = torch.nan
    trainer.save_checkpoint(tmp_path / "broken.ckpt")
    save(matcher, tmp_path / "saved")
    message = r"image\.\w+ and 1 other weights hold NaN, as after a training that diverged"
    for load in (
        lambda: itm.load(tmp_path / "broken.ckpt"),
        lambda: itm.load(tmp_path / "saved"),
        lambda: SCAN.load_from_checkpoint(tmp_path / "broken.ckpt"),
        lambda: trainer_of(tmp_path, max_epochs=2).fit(
            MODELS["scan"](loss=Triplet()), data_of(folder), ckpt_path=tmp_path / "broken.ckpt"
        ),
    ):
        with pytest.raises(ValueError, match=message):
            load()


def test_a_home_folder_is_found_under_its_short_name(folder, tmp_path, monkeypatch):
    """The shell expands ~ for commands, but nothing did in Python: it made a folder named ~."""
    home, here = tmp_path / "home", tmp_path / "here"
    for place in (home, here):
        place.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    data = data_of(folder)
    data.setup()
    matcher = MODELS["scan"](vocab_size=len(data.vocabulary), img_dim=6)
    matcher.vocab = data.vocabulary
    assert matcher.save_pretrained("~/saved") == home / "saved"
    trainer = trainer_of(tmp_path)
    trainer.strategy.connect(matcher)
    trainer.save_checkpoint(home / "saved.ckpt")
    for path in ("~/saved", "~/saved.ckpt"):
        loaded = itm.load(path)
        assert loaded.vocab.words == Matcher.from_pretrained(path).vocab.words
    assert itm.Index(loaded, captions=["a dog"]).save("~/index") == home / "index"
    assert itm.Index.load("~/index").captions == ["a dog"]
    data.vocabulary.save("~/vocab.json")
    assert Vocabulary.load("~/vocab.json").words == data.vocabulary.words
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "group, given", [("model", SCAN), ("loss", Triplet()), ("data", Path("data"))]
)
def test_objects_are_no_names_of_yaml_files(group, given):
    """Hydra's parser had told where the text of an object has a bracket."""
    name = given.__name__ if isinstance(given, type) else type(given).__name__
    with pytest.raises(
        TypeError, match=f"{group} must be a name.* got {name}: .*without itm.build"
    ):
        itm.build(**{group: given})
    with pytest.raises(ValueError, match="not a path: .*data.root=/my/data"):
        itm.build(data="/my/data")
