"""Recipes inherit from each other; what they come to is fixed here."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

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
        ("vsrn_f30k", {"region_norm": "none", "final_bn": True}),
        ("vsrn_coco", {"region_norm": "columns", "final_bn": False}),
    ],
)
def test_published_options_of_the_models(name, expected):
    cfg = composed(name, name)
    assert {key: cfg.model[key] for key in expected} == expected


def test_recipes_set_rates_and_steps_at_the_top_level():
    """Values in the groups would stay when the user chooses another optimiser or scheduler."""
    for name, body in RECIPES.items():
        assert not {"optimizer", "scheduler"} & set(body), name
