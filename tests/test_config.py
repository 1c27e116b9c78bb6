from pathlib import Path

import hydra
import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

import itm
from itm.config import CONF, build, compose, instantiate

GROUPS = {
    group: sorted(path.stem for path in Path(CONF, group).glob("*.yaml"))
    for group in ("model", "loss", "data", "text", "trainer", "callbacks", "logger", "recipe")
}


@pytest.mark.parametrize(
    "group, option", [(g, o) for g in ("model", "loss", "data", "text") for o in GROUPS[g]]
)
def test_every_option_composes(group, option):
    if option == "base":
        return
    cfg = compose([f"{group}={option}"])
    node = cfg.model.text if group == "text" else cfg[group]
    assert node


def chosen_recipe(model, data):
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        overrides = [f"model={model}", f"data={data}"]
        cfg = hydra.compose("train", overrides, return_hydra_config=True)
    return cfg.hydra.runtime.choices.recipe


@pytest.mark.parametrize("option", GROUPS["recipe"])
def test_every_recipe_is_picked_by_model_and_data(option):
    model, data = option.rsplit("_", 1)
    with_recipe = compose([f"model={model}", f"data={data}"])
    bare = compose([f"model={model}", f"data={data}", "~recipe"])
    assert chosen_recipe(model, data) == option
    # A recipe may only set what the constructors take, and nothing of the loss.
    assert set(with_recipe.model) == set(bare.model)
    assert OmegaConf.to_container(with_recipe)["loss"] == OmegaConf.to_container(bare)["loss"]


@pytest.mark.parametrize("alias, model", [("scan", "scan_t2i"), ("sgraf", "sgr")])
@pytest.mark.parametrize("data", ["coco", "f30k", "scenes", "flickr8k"])
def test_an_alias_is_the_model_it_stands_for(alias, model, data):
    assert compose([f"model={alias}", f"data={data}"]) == compose(
        [f"model={model}", f"data={data}"]
    )


@pytest.mark.parametrize(
    "overrides, epochs, clip",
    [
        (["model=vsrn", "data=scenes"], 10, 2.0),
        (["model=saf", "data=coco"], 20, 2.0),
        (["model=sgr", "data=f30k"], 40, 2.0),
        (["model=two_branch_embedding", "data=f30k"], 20, 0.0),
        (["model=vsrn", "data=scenes", "trainer=fast"], 1, 2.0),
        (["model=vsrn", "data=scenes", "trainer.max_epochs=3"], 3, 2.0),
    ],
)
def test_the_recipe_reaches_the_trainer(overrides, epochs, clip):
    cfg = compose(overrides)
    assert cfg.trainer.max_epochs == epochs and cfg.trainer.gradient_clip_val == clip


def test_the_command_line_wins_over_the_recipe():
    cfg = compose(["model=vsrn", "data=f30k", "trainer.max_epochs=3", "model.final_bn=false"])
    assert cfg.trainer.max_epochs == 3 and cfg.model.final_bn is False
    assert cfg.scheduler.step_size == 10  # the rest of the recipe stays


@pytest.mark.parametrize("override", ["model=vsnr", "model.embed_dims=3", "los=sam"])
def test_typos_fail_at_once(override):
    with pytest.raises(ConfigCompositionException, match="vsnr|embed_dims|los"):
        compose([override])


def test_a_wrong_constructor_argument_names_the_class():
    cfg = compose(["+loss.marge=1"])
    with pytest.raises(Exception, match="Triplet"):
        instantiate(cfg.loss)


def test_models_are_listed():
    for name in ("scan_t2i", "scan_i2t", "vsrn", "sgr", "saf", "cvse", "casc"):
        assert name in itm.list_models()


def test_sizes_come_from_the_data_and_conflicts_are_errors():
    small = ["data.limit=20", "model.embed_dim=16", "model.word_dim=8", "model.caption_dim=8"]
    matcher = build("vsrn", overrides=small)
    assert matcher.hparams["vocab_size"] == len(matcher.vocab) and matcher.hparams["img_dim"] == 64
    with pytest.raises(ValueError, match="model.img_dim=2048, but the data has 64"):
        build("vsrn", overrides=[*small, "model.img_dim=2048"])


def test_missing_root_says_what_to_give():
    with pytest.raises(ValueError, match="data.root=DIR"):
        build("vsrn", data="coco")


@pytest.mark.parametrize("option", GROUPS["trainer"])
def test_trainers_pass_only_what_lightning_takes(option):
    import inspect

    import pytorch_lightning as pl

    cfg = compose([f"trainer={option}"])
    known = set(inspect.signature(pl.Trainer).parameters)
    assert set(cfg.trainer) - {"_target_"} <= known
    assert OmegaConf.to_container(cfg, resolve=False)
