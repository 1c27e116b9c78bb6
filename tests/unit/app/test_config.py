import copy
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

import itm
from itm.app.build import build
from itm.app.config import CONF, compose, instantiate, recorded_configuration
from itm.data import RegionDataModule
from itm.scenes import write_scenes

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


@pytest.mark.parametrize("data", ["f30k", "coco"])
def test_the_rate_of_the_label_head_is_the_published_one(data):
    cfg = compose(["model=casc", f"data={data}"])
    assert cfg.optimizer.lr * cfg.model.head_lr_scale == pytest.approx(0.01)


def test_label_list_and_positive_weights_from_files(tmp_path):
    words = ["dog", "cat", "ball"]
    index = {"word2idx": {"<unk>": 0, "dog": 1, "cat": 2, "ball": 3}}
    (tmp_path / "vocab_tag.json").write_text(json.dumps(index))
    np.save(tmp_path / "caption_np.npy", np.array([2, 3, 4], np.float32))
    small = ["data.limit=20", "model.embed_dim=16", f"data.labels={tmp_path}/vocab_tag.json"]
    file = f"pos_weight={tmp_path}/caption_np.npy"
    casc = build("casc", overrides=[*small, f"model.{file}"])
    scan = build("scan_t2i", "multilabel", overrides=[*small, f"loss.{file}"])
    assert casc.labels.words == scan.labels.words == words
    assert casc.head.pos_weight.tolist() == scan.loss.pos_weight.tolist() == [2, 3, 4]
    with pytest.raises(Exception, match=r"caption_np.npy: 3 positive weights, num_labels=\d\d"):
        build("casc", overrides=["data.limit=20", f"model.{file}"])
    with pytest.raises(ValueError, match="model.num_labels=500, but the data has 3"):
        build("casc", overrides=[*small, "model.num_labels=500"])


def test_word_vectors_of_concepts_from_a_file(tmp_path):
    small = ["data.limit=20", "model.embed_dim=16", "model.word_dim=8", "data.num_concepts=12"]
    words = build("cvse", overrides=small).concepts.words
    file = tmp_path / "glove.txt"
    file.write_text("".join(f"{word} {k} 1 2\n" for k, word in enumerate(words)))
    files = [f"model.concept_vectors={file}", "model.concept_dim=3"]
    matcher = build("cvse", overrides=[*small, *files])
    assert matcher.graph.vectors.tolist() == [[k, 1, 2] for k in range(len(words))]


def test_the_command_line_wins_over_the_recipe():
    cfg = compose(["model=vsrn", "data=f30k", "trainer.max_epochs=3", "model.final_bn=false"])
    assert cfg.trainer.max_epochs == 3 and cfg.model.final_bn is False
    assert cfg.scheduler.step_size == 10  # the rest of the recipe stays


@pytest.mark.parametrize(
    ("override", "said"),
    [("model=vsnr", "vsnr"), ("model.embed_dims=3", "embed_dims"), ("los=sam", "'los'")],
)
def test_typos_fail_at_once(override, said):
    with pytest.raises(ConfigCompositionException, match=said):
        compose([override])


def test_a_wrong_constructor_argument_names_the_class():
    cfg = compose(["+loss.marge=1"])
    with pytest.raises(Exception, match="Triplet"):
        instantiate(cfg.loss)


def test_models_are_listed():
    names = "scan_t2i scan_i2t vsepp vse_infty vsrn sgr saf cvse casc chan"
    assert set(names.split()) <= set(itm.list_models())


def test_sizes_come_from_the_data_and_conflicts_are_errors():
    small = ["data.limit=20", "model.embed_dim=16", "model.word_dim=8", "model.caption_dim=8"]
    matcher = build("vsrn", overrides=small)
    assert matcher.hparams["vocab_size"] == len(matcher.vocab) and matcher.hparams["img_dim"] == 64
    with pytest.raises(ValueError, match="model.img_dim=2048, but the data has 64"):
        build("vsrn", overrides=[*small, "model.img_dim=2048"])


WIDE = ["data.limit=20", "model.word_dim=3", "model.embed_dim=16"]


@pytest.mark.parametrize("model", ["scan_t2i", "vsrn", "sgr", "cvse", "casc", "vsepp", "vse_infty"])
def test_words_start_from_a_file_of_vectors(tmp_path, model):
    check_words(tmp_path, model, WIDE)


@pytest.mark.parametrize("model", ["two_branch_embedding", "two_branch_similarity"])
@pytest.mark.parametrize("text", ["gru", "mean", "attend"])
def test_sentences_start_from_a_file_of_vectors(tmp_path, model, text):
    # In a mean unknown words keep the small start of that encoder.
    check_words(tmp_path, model, [*WIDE, f"text={text}"], 1.0 if text == "gru" else 0.4)


def check_words(folder, model, overrides, spread=1.0):
    words = build(model, overrides=overrides).vocab.words
    file, rng = folder / "vectors.txt", np.random.default_rng(0)
    known = {word: rng.integers(9, 99, 3).tolist() for word in words[5::2]}
    file.write_text("".join(f"{word} {a} {b} {c}\n" for word, (a, b, c) in known.items()))
    matcher = build(model, overrides=[*overrides, f"word_vectors={file}"])
    rows = dict(zip(words, matcher.text.embed.weight.tolist(), strict=True))
    assert {word: rows.pop(word) for word in known} == known
    noise = np.array(list(rows.values()))
    assert abs(noise.mean()) < 0.2 and abs(noise.std() - spread) < 0.2
    with pytest.raises(ValueError, match="is 3 wide, but model.word_dim=4; set model.word_dim=3"):
        build(model, overrides=[*overrides, "model.word_dim=4", f"word_vectors={file}"])


def test_the_data_module_stays_with_the_matcher_and_out_of_copies():
    small = ["data.limit=20", "model.embed_dim=16", "model.word_dim=8"]
    matcher = build("scan_t2i", overrides=[*small, "data.batch_size=4"])
    assert isinstance(matcher.data, RegionDataModule) and matcher.data.batch_size == 4
    assert copy.deepcopy(matcher).data is None and pickle.loads(pickle.dumps(matcher)).data is None
    checkpoint = {}
    matcher.on_save_checkpoint(checkpoint)
    assert "data" not in checkpoint["hyper_parameters"] and "data" not in checkpoint["itm"]


def test_the_data_bring_what_model_and_loss_need():
    small = ["data.limit=20", "model.embed_dim=16", "data.batch_size=10"]
    for model, loss, needs in (
        ("scan_t2i", "triplet", []),
        ("scan_t2i", "sam", ["relevance"]),
        ("scan_t2i", "multilabel", ["labels"]),
        ("casc", "sam", ["labels", "relevance"]),
        ("cvse", "triplet", ["concepts"]),
    ):
        data = build(model, loss, overrides=small).data
        assert list(data.needs) == needs
        assert (data.label_vocabulary is not None) == ("labels" in needs)
        assert (data.concept_vocabulary is not None) == ("concepts" in needs)
        pairs = next(iter(data.train_dataloader()))
        given = {
            "labels": pairs.captions.labels,
            "concepts": pairs.captions.concepts,
            "relevance": pairs.relevance,
        }
        assert [name for name, value in given.items() if value is not None] == needs


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


def test_a_wrong_name_in_python_is_explained_as_on_the_command_line():
    with pytest.raises(ValueError, match="there is no model=scna; did you mean scan"):
        build("scna")
    with pytest.raises(ValueError, match="there is no option model.embeddim.* did you mean"):
        build("scan", overrides=["model.embeddim=3"])


def test_region_drop_with_a_batch_norm_over_regions_is_refused_at_once():
    with pytest.raises(ValueError, match="data.region_drop=0.2 leaves out regions, but SGRAF"):
        build("sgr", overrides=["data.root.images=[20,4,4]", "data.region_drop=0.2"])


def test_build_has_the_weights_of_a_seed_and_leaves_the_generator_alone():
    small = ["model.embed_dim=8", "model.word_dim=4", "data.root.images=[8,4,4]"]
    state = torch.random.get_rng_state()
    one, again, other = (
        build("scan", overrides=[*small, f"seed={seed}"]).state_dict() for seed in (3, 3, 4)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    torch.testing.assert_close(one, again, rtol=0, atol=0)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_build_starts_from_other_weights_and_refuses_what_it_does_not_read(tmp_path):
    small = ["model.embed_dim=8", "model.word_dim=4", "data.root.images=[8,4,4]"]
    first = build("scan", overrides=small)
    first.save_pretrained(tmp_path / "first")
    second = build("scan", overrides=[*small, f"init={tmp_path / 'first'}"])
    torch.testing.assert_close(second.state_dict(), first.state_dict(), rtol=0, atol=0)
    with pytest.raises(FileNotFoundError, match="nothing to load at nowhere"):
        build("scan", overrides=[*small, "init=nowhere"])
    with pytest.raises(ValueError, match=r"does not read callbacks, resume: give its meaning"):
        build("scan", overrides=[*small, "resume=x", "callbacks=ema"])


SMALL = ["model.embed_dim=8", "model.word_dim=4", "data.root.images=[8,4,4]"]


@pytest.mark.parametrize("name", ["my data (1)", "a, b", "a=b", "plain"])
def test_build_takes_any_name_of_a_folder_as_the_command_line_does(name, tmp_path):
    folder = write_scenes(tmp_path / name, images=(8, 4, 4))
    matcher = build("vsepp", data="flickr8k", overrides=[f"data.root={folder}", "recipe=null"])
    assert Path(matcher.data.root) == Path(folder)


def test_the_callers_hydra_stays(tmp_path):
    (tmp_path / "mine.yaml").write_text("a: 1")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        build("scan", overrides=SMALL)
        assert hydra.compose("mine").a == 1


def test_threads_compose_one_after_the_other():
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda seed: compose([f"seed={seed}"]).seed, range(24)))
    assert found == list(range(24))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["margin=0.3"], "margin=0.3 has no effect, because loss.margin=0.0 is set on its own"),
        (["scheduler=cosine", "step_size=5"], "step_size=5 has no effect"),
        (["max_epochs=3", "trainer.precision=bf16-mixed"], "max_epochs, trainer: itm.build makes"),
    ],
)
def test_build_says_which_options_it_does_not_use(options, message, capsys):
    build("scan", "infonce", overrides=[*SMALL, *options])
    assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.embed_dim=-1"], "model.embed_dim must be at least 1, got -1"),
        (["loss.margin=-1"], "loss.margin must be at least 0, got -1"),
        (["data.batch_size=0"], "batch_size"),
        (["chunk_size=-3"], "chunk_size=-3 must be at least 1"),
        (None, "overrides must be a list of texts"),
        ([3], "overrides must be a list of texts"),
        ({"seed": 1}, "overrides must be a list of texts"),
    ],
)
def test_values_out_of_range_are_errors_of_values(options, message):
    with pytest.raises(ValueError, match=message):
        build("scan", overrides=[*SMALL, *options] if isinstance(options, list) else options)


def test_a_missing_folder_is_an_error_of_files():
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        build("scan", data="flickr8k", overrides=["data.root=/nowhere"])


@pytest.mark.parametrize("option", ["loss.mask_same_image=true", "model.measure=order"])
def test_without_a_recipe_options_are_checked_as_with_one(option):
    small = ["data.limit=20", "model.embed_dim=16", "model.word_dim=8"]
    assert build("vsepp", "triplet", overrides=[*small, "recipe=null", option]).loss is not None


def test_numbers_of_the_environment_are_recorded_and_its_texts_are_not(monkeypatch):
    monkeypatch.setenv("ITM_TEST_NUMBER", "0.1")
    monkeypatch.setenv("ITM_TEST_SECRET", "hush")
    number, secret = "${oc.decode:${oc.env:ITM_TEST_NUMBER}}", "${oc.env:ITM_TEST_SECRET}"
    cfg = OmegaConf.create(
        {"margin": number, "loss": {"margin": "${margin}", "name": secret}, "list": [secret]}
    )
    cfg.unread = "${oc.env:ITM_TEST_MISSING}"
    kept = {"margin": 0.1, "loss": {"margin": "${margin}", "name": secret}, "list": [secret]}
    kept["unread"] = "${oc.env:ITM_TEST_MISSING}"
    assert recorded_configuration(cfg) == kept
    assert OmegaConf.to_container(cfg)["margin"] == number
