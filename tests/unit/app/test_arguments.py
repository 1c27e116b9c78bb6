"""Paths and free text reach a command as they were typed."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from itm.app.arguments import LISTS, PATHS, TEXT, quote, replace_nodes, unquote
from itm.app.config import CONF

COMMANDS = sorted(path.stem for path in Path(CONF).glob("*.yaml"))
NAMES = [
    "loss.margin=0.1,seed=0", "data (1)", "données", "数据", "a[1]", "[1]", "{1}", "a#1", "x&y",
    "it's", 'a "b"', "'", "a~b", "a!b;c", "$1 %2 $", "-x", " a ", "a\\b", "a\\", "a\\'b", "2024",
    "1e5", "nan", "a:b", "*?", "epoch=3-step=100.ckpt", "@a", "a|b", "<a>", "`a`", "^", "a, b",
]  # fmt: skip


def parsed(argument):
    (override,) = OverridesParser.create().parse_overrides([argument])
    return override.value()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_every_command_takes_any_name(command):
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        known = OmegaConf.to_container(compose(command, return_hydra_config=True))
        keys = [k for k in (*PATHS, *TEXT) if _has(known, k) and not k.startswith("hydra.")]
        for key in keys:
            for name in NAMES:
                if key not in LISTS or name != "[1]":
                    assert parsed(quote(f"{key}={name}")) == name
        names = {key: NAMES[i % len(NAMES)] for i, key in enumerate(keys)}
        cfg = compose(command, [quote(f"{key}={name}") for key, name in names.items()])
        assert {key: OmegaConf.select(cfg, key) for key in keys} == names


def test_every_listed_option_exists():
    GlobalHydra.instance().clear()
    found = set()
    with initialize_config_dir(CONF, version_base="1.3"):
        for command in COMMANDS:
            for more in ([], ["data=phrases"], ["text=bert"], ["model=cvse"], ["model=casc"]):
                if more and command != "train":
                    continue
                cfg = OmegaConf.to_container(compose(command, more, return_hydra_config=True))
                found |= {key for key in (*PATHS, *TEXT) if _has(cfg, key)}
    assert found == {*PATHS, *TEXT}


def _has(node, key):
    for part in key.split("."):
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_read_back(name):
    argument = quote(f"data.root={name}")
    assert parsed(argument) == name
    assert quote(argument) == argument or name[0] in "'\""
    assert unquote(argument.partition("=")[2]) == name


def test_text_keeps_quotes_and_references(tmp_path):
    for text in ("'a'", "${x}", "a \\${x} b", "null", "a, b"):
        cfg = OmegaConf.create({"query": parsed(quote(f"query={text}"))})
        assert cfg.query == text
    assert quote("caption=''") == "caption=''"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("checkpoint=[a=1.ckpt,b (2)]", ["a=1.ckpt", "b (2)"]),
        ("checkpoint=['a,1', b]", ["a,1", "b"]),
        ("resume=true", True),
        ("checkpoint=null", None),
        ("resume='my run, one'", "my run, one"),
        ('resume="my run, one"', "my run, one"),
        (r"checkpoint=epoch\=3.ckpt", "epoch=3.ckpt"),
        ("data.root={_target_: itm.scenes.write_scenes}", {"_target_": "itm.scenes.write_scenes"}),
        ("hydra.run.dir=out/${now:%Y-%m}", "out/${now:%Y-%m}"),
        ("+data.vocab=a b", "a b"),
        ("loss.margin=0.1", 0.1),
    ],
)
def test_what_hydra_understood_before_stays(argument, value):
    assert parsed(quote(argument)) == value


def test_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/a b")
    assert parsed(quote("data.root=~/data")) == "/home/a b/data"


def test_commas_sweep_unless_they_name_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert quote("data.root=a (1),b", sweeps=True) == "data.root='a (1)',b"
    assert quote("data.root=a,b") == "data.root='a,b'"
    (tmp_path / "a,b").mkdir()
    assert quote("data.root=a,b", sweeps=True) == "data.root='a,b'"
    assert quote("data.root=glob(*)", sweeps=True) == "data.root=glob(*)"


def test_another_class_replaces_the_default():
    given = ["scheduler={_target_: X, T_max: 10}", "seed=1"]
    assert replace_nodes(given) == ["~scheduler", "+scheduler={_target_: X, T_max: 10}", "seed=1"]
    assert replace_nodes(replace_nodes(given)) == replace_nodes(given)
    assert replace_nodes(["optimizer._target_=X", "optimizer.a=1"]) == [
        "++optimizer._target_=X", "++optimizer.a=1",
    ]  # fmt: skip
    for plain in ("scheduler=cosine", "scheduler=null", "scheduler.step_size=2", "optimizer.lr=1"):
        assert replace_nodes([plain]) == [plain]
