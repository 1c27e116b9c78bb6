"""Recipes inherit from each other; what they come to is fixed here."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from itm.app.build import build
from itm.app.choices import check_recipe
from itm.app.config import CONF, compose

RECIPES = {path.stem: OmegaConf.load(path) for path in Path(CONF, "recipe").glob("*.yaml")}
ALIASES = {name: body.defaults[0] for name, body in RECIPES.items() if set(body) == {"defaults"}}


def composed(name, recipe):
    model, data = name.rsplit("_", 1)
    return compose([f"model={model}", f"data={data}", f"recipe={recipe}"])


@pytest.mark.parametrize("alias", sorted(ALIASES))
def test_an_alias_sets_what_its_sibling_sets(alias):
    assert len(RECIPES[alias].defaults) == 1
    assert composed(alias, alias) == composed(alias, ALIASES[alias])


def test_no_recipe_is_a_copy_of_another():
    bodies = {
        name: OmegaConf.to_yaml(body) for name, body in RECIPES.items() if name not in ALIASES
    }
    assert len(set(bodies.values())) == len(bodies)


@pytest.mark.parametrize(
    "recipes, batch, rate, step, epochs, clip",
    [
        ("scan_f30k scan_t2i_f30k scan_t2i_lse_f30k", 128, 2e-4, 15, 30, 2),
        ("scan_i2t_f30k scan_i2t_avg_f30k casc_f30k", 128, 2e-4, 15, 30, 2),
        ("scan_coco scan_t2i_coco scan_t2i_lse_coco", 128, 5e-4, 10, 20, 2),
        ("scan_i2t_coco scan_i2t_avg_coco casc_coco", 128, 5e-4, 10, 20, 2),
        ("vsrn_f30k", 128, 2e-4, 10, 30, 2),
        ("vsrn_coco", 128, 2e-4, 15, 30, 2),
        ("sgr_f30k sgraf_f30k", 128, 2e-4, 30, 40, 2),
        ("saf_f30k", 128, 2e-4, 20, 30, 2),
        ("sgr_coco sgraf_coco saf_coco", 128, 2e-4, 10, 20, 2),
        ("cvse_f30k", 128, 2e-4, 25, 50, 2),
        ("cvse_coco", 128, 2e-4, 15, 30, 2),
        ("chan_f30k chan_coco", 384, 5e-4, 15, 25, 2),
        ("two_branch_embedding_f30k two_branch_embedding_coco", 500, 1e-4, None, 20, 0),
        ("two_branch_similarity_f30k two_branch_similarity_coco", 200, 5e-5, None, 20, 0),
    ],
)
def test_published_hyper_parameters(recipes, batch, rate, step, epochs, clip):
    for name in recipes.split():
        cfg = composed(name, name)
        assert (cfg.data.batch_size, cfg.optimizer.lr) == (batch, rate), name
        assert (cfg.max_epochs, cfg.gradient_clip_val) == (epochs, clip), name
        drops = cfg.scheduler.step_size  # None = a constant rate
        schedule = drops and (drops, cfg.scheduler.gamma)
        assert schedule == (step and (step, 0.1)), name


@pytest.mark.parametrize(
    "name, expected",
    [
        ("scan_i2t_f30k", {"lambda_lse": 5, "temperature": 4, "direction": "i2t"}),
        ("scan_i2t_coco", {"lambda_lse": 20, "temperature": 4, "aggregation": "LogSumExp"}),
        ("scan_i2t_avg_coco", {"temperature": 4, "direction": "i2t", "aggregation": "Mean"}),
        ("scan_t2i_lse_coco", {"lambda_lse": 6, "temperature": 9, "aggregation": "LogSumExp"}),
        ("scan_t2i_f30k", {"temperature": 9, "direction": "t2i", "aggregation": "Mean"}),
        ("casc_coco", {"lambda_lse": 20, "head_lr_scale": 20}),
        ("casc_f30k", {"lambda_lse": 5, "head_lr_scale": 50}),
        ("cvse_f30k", {"concept_ratio": 0.35, "eval_alpha": 0.85}),
        ("cvse_coco", {"concept_ratio": 0.4, "eval_alpha": 0.9}),
        ("chan_f30k", {"self_attention": True, "pooling": "LogSumExp", "beta": 0.1}),
        ("vsrn_f30k", {"region_norm": "none", "final_bn": True}),
        ("vsrn_coco", {"region_norm": "columns", "final_bn": False}),
    ],
)
def test_published_options_of_the_models(name, expected):
    cfg = composed(name, name)
    assert {key: cfg.model[key] for key in expected} == expected


@pytest.mark.parametrize("data", ["f30k", "coco"])
def test_both_recipes_of_chan(data):
    """A decay for each text encoder, BERT at a tenth of the rate, size augmentation in both."""
    gru = composed(f"chan_{data}", f"chan_{data}")
    bert = compose(["model=chan", f"data={data}", "text=bert", "recipe=bert/chan"])
    for cfg, batch, decay in ((gru, 384, 1e-2), (bert, 128, 1e-4)):
        assert cfg.optimizer._target_ == "torch.optim.AdamW"
        assert (cfg.data.batch_size, cfg.optimizer.weight_decay) == (batch, decay)
        assert (cfg.data.region_drop, cfg.data.word_drop, cfg.data.drop_last) == (0.2, 0.2, True)
        assert (cfg.loss.margin, cfg.warmup_epochs, cfg.loss.negatives) == (0.05, 1, "hardest")
        assert (cfg.optimizer.lr, cfg.scheduler.step_size, cfg.max_epochs) == (5e-4, 15, 25)
    assert (gru.model.self_attention, gru.model.pooling) == (True, "LogSumExp")
    assert (bert.model.self_attention, bert.model.pooling) == (False, "Mean")
    assert (bert.model.text.finetune, bert.model.text.lr_scale) == (True, 0.1)


def test_a_warm_up_in_epochs_is_one_in_batches():
    small = ["data.root.images=[40,6,6]", "data.batch_size=32", "data.min_count=1"]
    tiny = ["model.embed_dim=8", "model.word_dim=4", "~recipe"]
    for more, steps in (([], 0), (["warmup_epochs=1"], 7), (["warmup_epochs=0.5"], 4)):
        matcher = build("scan", overrides=[*small, *tiny, *more])
        assert matcher.loss.warmup_steps == steps
    shorter = build("scan", overrides=[*small, *tiny, "warmup_epochs=1", "trainer.devices=2"])
    assert shorter.loss.warmup_steps == 4
    limited = ["warmup_epochs=1", "trainer.limit_train_batches=3"]
    assert build("scan", overrides=[*small, *tiny, *limited]).loss.warmup_steps == 3
    for wrong, message in (
        (["warmup_epochs=1", "warmup_steps=3"], "say the same in two ways"),
        (["warmup_epochs=-1"], "warmup_epochs=-1 must be at least 0"),
    ):
        with pytest.raises(ValueError, match=message):
            build("scan", overrides=[*small, *tiny, *wrong])


def test_the_margin_of_a_recipe_is_that_of_the_hinge_losses():
    for loss in ("triplet", "sam", "multilabel"):
        assert compose(["model=chan", "data=f30k", f"loss={loss}"]).loss.margin == 0.05
        assert compose(["model=scan", "data=f30k", f"loss={loss}"]).loss.margin == 0.2
    assert compose(["model=chan", "data=f30k", "loss.margin=0.3"]).loss.margin == 0.3
    assert compose(["model=chan", "data=f30k", "loss=infonce"]).loss.margin == 0


def test_both_recipes_of_vse_infty():
    """A decay for each text encoder; one clip, one drop, one epoch of all negatives."""
    bert = ["text=bert", "recipe=bert/vse_infty", "model.text.path=x"]
    for overrides, decay in (([], 0.01), (bert, 1e-4)):
        cfg = compose(["model=vse_infty", "data=coco", *overrides])
        assert cfg.optimizer._target_ == "torch.optim.AdamW"
        assert (cfg.optimizer.lr, cfg.optimizer.weight_decay) == (5e-4, decay)
        assert (cfg.max_epochs, cfg.scheduler.step_size, cfg.gradient_clip_val) == (25, 15, 2.0)
        assert (cfg.data.batch_size, cfg.data.drop_last, cfg.warmup_epochs) == (128, True, 1)
        assert (cfg.data.region_drop, cfg.data.word_drop) == (0.2, 0.2)
    assert (cfg.model.text.finetune, cfg.model.text.lr_scale) == (True, 0.1)


def test_recipes_set_rates_and_steps_at_the_top_level():
    """Values in the groups would stay when the user chooses another optimiser or scheduler."""
    for name, body in RECIPES.items():
        assert not {"optimizer", "scheduler"} & set(body), name


def test_a_recipe_that_does_not_exist_is_refused(tmp_path):
    """Hydra passes over a missing optional file, and the published values would be lost."""
    known = ["scan_f30k", "bert/chan", "mine"]
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/mine.yaml").write_text("lr: 1")
    for name in known:
        check_recipe([f"recipe={name}"], [CONF, str(tmp_path)])
    check_recipe(["recipe=null", "model=scan"], [CONF])
    check_recipe(["recipe=[scan_f30k, mine]"], [CONF, str(tmp_path)])
    with pytest.raises(ValueError, match="there is no recipe=scan_f30; did you mean scan_f30k"):
        check_recipe(["recipe=scan_f30"], [CONF])
    small = ["data.root.images=[8,4,4]", "model.embed_dim=8", "recipe=scan_f30"]
    with pytest.raises(ValueError, match="there is no recipe=scan_f30"):
        build("scan", overrides=small)
