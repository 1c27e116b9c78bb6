"""Options that a combination does not use are refused, not ignored."""

from types import SimpleNamespace

import pytest
from hydra.types import RunMode

from itm.app.build import build
from itm.app.choices import rewrite_choices
from itm.app.config import compose
from itm.app.data_options import check_data_options
from itm.app.unused import LOSSES, MODELS, check_applied, unused_options


def unused(*typed):
    return unused_options(compose(rewrite_choices(list(typed))), list(typed))


BERT = ("text=bert", "model.text.path=x")


SIZES = [
    (["data.num_labels=9"], "data.num_labels=9 has no effect: neither model nor loss reads la"),
    (
        ["data.vocab=V.json", "data.min_count=2"],
        "data.min_count=2 has no effect: data.vocab=V.json is read instead",
    ),
    (
        ["model=casc", "data.labels=L.json", "data.num_labels=2"],
        "data.num_labels=2 has no effect: data.labels=L.json is read instead",
    ),
    ([*BERT, "data.min_count=2"], "data.min_count=2 has no effect: text=bert reads the word"),
    ([*BERT, "model.word_dim=8"], "model.word_dim=8 has no effect with text=bert: it needs 'gru'"),
    (["model.caption_weight=0", "model.caption_dim=8"], "no effect with model.caption_weight=0"),
]
OTHERS = [
    (["data.labels=L.json"], "data.labels=L.json has no effect: neither model nor loss"),
    (["model=casc", "data.concepts=C"], "data.concepts=C has no effect: neither model nor"),
    ([*BERT, "data.tokenizer=characters"], "data.tokenizer=characters has no effect: text=bert"),
    (
        [*BERT, "model.text.lr_scale=0.5"],
        "model.text.lr_scale=0.5 has no effect with model.text.finetune=false",
    ),
    (["++model.text.finetune=true"], "has no effect: text=gru has no such option"),
    (
        ["model=two_branch_embedding", "text=vectors", "data.max_unknown=0.9"],
        "data.max_unknown=0.9 has no effect: text=vectors",
    ),
    (["data.vectors=true"], "data.vectors=true has no effect: .* text=vectors only"),
    (["data.noise_by=image"], "data.noise_by=image has no effect without data.noise_ratio"),
    (["data.other_captions=true"], "data.other_captions=true has no effect: no data.vocab"),
    (["loss=infonce", "warmup_steps=9"], "warmup_steps=9 has no effect: InfoNCE has no warm"),
    (
        ["warmup_epochs=9", "loss.negatives=all"],
        "warmup_epochs=9 has no effect with loss.negatives=all: it needs 'hardest',",
    ),
    (["warmup_epochs=9", "loss.warmup_steps=3"], "because loss.warmup_steps=3 is set on its own"),
    (["loss=sam/alone", "margin=0.3"], "margin=0.3 has no effect with loss.alone=true"),
    (["loss.top_k=3"], "loss.top_k=3 has no effect with loss.negatives=hardest: .* 'top'"),
    (
        ["model=casc", "loss=multilabel", "loss.weight=2"],
        "loss.weight=2 has no effect: CASC .* set model.label_weight",
    ),
    (["model=vse_infty", "loss=pcmepp", "loss.vib_beta=2"], "the model has no variances"),
    (
        ["model=casc", "model.i2t_aggregation=Mean", "model.lambda_lse=4"],
        "model.t2i_aggregation=Mean, model.i2t_aggregation=Mean: it needs 'LogSumExp'",
    ),
    (["model=saf", "model.sgr_steps=2"], "with model.module=SAF: it needs 'SGR'"),
]


@pytest.mark.parametrize(("typed", "message"), OTHERS)
def test_an_option_that_is_not_used_is_refused(typed, message, monkeypatch, capsys):
    mode = SimpleNamespace(mode=RunMode.RUN)
    monkeypatch.setattr("itm.app.unused.HydraConfig.get", lambda: mode)
    cfg = compose(rewrite_choices(typed))
    with pytest.raises(ValueError, match=message):
        check_applied(cfg, typed)
    mode.mode = RunMode.MULTIRUN  # whose jobs share their options
    check_applied(cfg, typed)
    assert "has no effect" in capsys.readouterr().out


@pytest.mark.parametrize(("typed", "message"), SIZES)
def test_a_size_that_is_not_used_is_told(typed, message, capsys):
    check_applied(compose(rewrite_choices(typed)), typed)
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    "typed",
    [
        ["model=casc", "data.num_labels=9", "data.tokenizer=characters", "data.min_count=2"],
        ["loss=multilabel", "data.labels=L.json", "data.other_captions=true"],
        ["model=cvse", "data.num_concepts=9"],
        [*BERT, "loss=sam", "data.tokenizer=characters"],  # of the words that CIDEr-D counts
        [*BERT, "model.text.finetune=true", "model.text.lr_scale=0.5"],
        ["data.noise_by=image", "data.noise_ratio=0.1"],
        ["loss=infonce", "warmup_epochs=0", "loss.margin=0.1"],
        ["data.num_labels=500", "data.noise_by=caption"],  # the defaults
        ["model=two_branch_similarity", "text=gru", "model.sentence_dim=8", "model.word_dim=8"],
        ["model=vse_infty", "model.probabilistic=true", "loss=pcmepp", "loss.vib_beta=2"],
        ["model=casc", "model.t2i_aggregation=LogSumExp", "model.lambda_lse=4"],
        ["lr=0.1", "seed=3", "step_size=2", "~callbacks.health"],
    ],
)
def test_options_that_are_used(typed):
    assert not unused(*typed)


def test_an_added_option_that_nothing_reads_is_refused(monkeypatch):
    runtime = SimpleNamespace(choices={"model": "vsrn", "experiment": "mine"})
    mode = SimpleNamespace(mode=RunMode.RUN, runtime=runtime)
    monkeypatch.setattr("itm.app.unused.HydraConfig.get", lambda: mode)
    typed = ["+learning_rate=0.1"]
    with pytest.raises(ValueError, match=r"\+learning_rate=0.1 has no effect"):
        check_applied(compose(typed), typed)
    typed = ["+width=8", "model.embed_dim=${width}", "+trainer.max_time=00:00:10:00"]
    check_applied(compose(typed), [*typed, "+experiment=mine"])


def test_the_tables_name_options_that_exist():
    models = {"SCAN": "scan", "CASC": "casc", "CHAN": "chan", "CVSE": "cvse", "SGRAF": "sgraf",
              "TwoBranchSimilarity": "two_branch_similarity", "VSEInfinity": "vse_infty",
              "VSRN": "vsrn"}  # fmt: skip
    losses = {"Triplet": "triplet", "SAM": "sam", "MultiLabel": "multilabel"}
    for group, table, names in (("model", MODELS, models), ("loss", LOSSES, losses)):
        assert table.keys() == names.keys()
        for owner, rules in table.items():
            node = compose([f"{group}={names[owner]}"])[group]
            assert node._target_.endswith(f".{owner}")
            for options, deciders, _ in rules:
                assert {*options.split(), *deciders.split()} <= set(node)


def test_from_python_an_unused_option_is_told(capsys):
    small = ["data.limit=20", "model.embed_dim=8", "model.word_dim=8"]
    build("vsepp", overrides=[*small, "data.num_labels=9"])
    assert "data.num_labels=9 has no effect" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "argument"),
    [("evaluate", "data.vocab=V.json"), ("search", "data.workers=2"), ("prepare", "data.limit=9"),
     ("localise", "+data.fraction=0.5"), ("explain", "data.batch_size=9"),
     ("search", "data.phrases.path=A"), ("evaluate", "data.phrases.positive_iou=0.9")],
)  # fmt: skip
def test_options_of_training_are_refused_by_other_commands(command, argument):
    message = rf"{argument.replace('+', '.')} has no effect: itm.{command} reads data.root, "
    with pytest.raises(ValueError, match=message):
        check_data_options(command, ["checkpoint=A", argument])
    check_data_options(command, ["data.root=A", "data.test=b", "data.roto=x", "device=cpu"])
    check_data_options("train", [argument])
