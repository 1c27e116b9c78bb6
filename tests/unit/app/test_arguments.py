"""Paths and free text reach a command as they were typed."""

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from itm.app import config
from itm.app.arguments import key_of, read_arguments, tell_repeated
from itm.app.choices import rewrite_choices
from itm.app.config import CONF
from itm.app.help import meanings
from itm.app.quoting import LISTS, PATHS, TEXT, quote, unquote

COMMANDS = sorted(path.stem for path in Path(CONF).glob("*.yaml"))
NAMES = [
    "loss.margin=0.1,seed=0", "data (1)", "données", "数据", "a[1]", "[1]", "{1}", "a#1", "x&y",
    "it's", 'a "b"', "'", "a~b", "a!b;c", "$1 %2 $", "-x", " a ", "a\\b", "a\\", "a\\'b", "2024",
    "1e5", "nan", "a:b", "*?", "epoch=3-step=100.ckpt", "@a", "a|b", "<a>", "`a`", "^", "a, b",
]  # fmt: skip


# Choices of groups that bring options of their own.
MORE = [
    [f"{group}={choice}"]
    for group, choice in (
        ("data", "phrases"), ("text", "bert"), ("model", "cvse"), ("model", "casc"),
        ("loss", "multilabel"), ("logger", "wandb"), ("logger", "tensorboard"),
        ("logger", "mlflow"),
    )
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
            for more in ([], *MORE):
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
    assert rewrite_choices(given) == ["~scheduler", "+scheduler={_target_: X, T_max: 10}", "seed=1"]
    assert rewrite_choices(rewrite_choices(given)) == rewrite_choices(given)
    assert rewrite_choices(["optimizer._target_=X", "optimizer.a=1"]) == [
        "++optimizer._target_=X", "++optimizer.a=1",
    ]  # fmt: skip
    for plain in ("scheduler=cosine", "scheduler.step_size=2", "optimizer.lr=1", "init=null"):
        assert rewrite_choices([plain]) == [plain]


def test_one_plus_is_as_good_as_two():
    """Options that files did not list once were given with +, which they may still have."""
    given = ["+trainer.fast_dev_run=true", "+data.limit=3", "+experiment=a", "+hydra.x=1", "seed=1"]
    assert rewrite_choices(given) == [f"+{given[0]}", f"+{given[1]}", *given[2:]]
    assert rewrite_choices(rewrite_choices(given)) == rewrite_choices(given)


def test_null_for_a_group():
    given = ["scheduler=null", "text=null", "sweep=null", "recipe=null"]
    assert rewrite_choices(given) == ["scheduler=none", "~recipe"]
    for command, group in (("train", "loss"), ("train", "optimizer"), ("search", "data")):
        with pytest.raises(ValueError, match=f"{group} must be '.* or '.*, got null"):
            rewrite_choices([f"{group}=null"], command)
    assert rewrite_choices(["loss=null"], "search") == ["loss=null"]  # Hydra names it


@pytest.mark.parametrize(
    "given",
    [
        ["recipe=null", "recipe=vsepp_f30k"], ["recipe=vsepp_f30k", "recipe=null"],
        ["text=mean", "text=null"], ["text=null", "text=mean"],
        ["scheduler=cosine", "scheduler=null"], ["+model=scan", "model=vsepp"],
        ["sweep=margins", "sweep=null"], ["loss=null", "loss=sam"],
        ["scheduler={_target_: torch.optim.lr_scheduler.LinearLR}", "scheduler=cosine"],
    ],
)  # fmt: skip
def test_of_two_choices_the_last_one_counts_null_too(given):
    """The command says which one replaces the other."""
    assert rewrite_choices(given) == rewrite_choices(given[1:])
    usual = ["data.root.images=[8,4,4]"]
    assert config.compose([*rewrite_choices(given), *usual]) == config.compose(
        [*rewrite_choices(given[1:]), *usual]
    )


def test_null_does_not_hide_the_text_encoder_of_a_resumed_run():
    with pytest.raises(ValueError, match="a resumed run keeps its text encoder.*leave it out"):
        rewrite_choices(["resume=RUN", "text=null"])
    for resume in ("resume=true", "resume=RUN/checkpoints/last.ckpt"):  # nothing is recorded
        assert rewrite_choices([resume, "text=null"]) == [resume]


def test_options_about_files_are_in_the_list():
    about = re.compile(r"\b(file|files|folder|path)\b|\.(npy|json|html|png|ckpt)\b")
    other = {
        "splits", "save_similarity", "save_ranks", "data.captions_per_image", "data.vectors",
        "data.drop_last", "write", "tokenizer", "options", "from", "data.resident", "model.text",
        "callbacks.checkpoint", "callbacks.last", "callbacks.checkpoint.auto_insert_metric_name",
        "callbacks.checkpoint.enable_version_counter", "callbacks.checkpoint.filename",
        "data.other_captions", "trainer.profiler", "logger.csv.resume", "logger.tensorboard.name",
        "logger.tensorboard.version", "overwrite", "data.cache_words",
    }  # fmt: skip
    paths = [path for path in Path(CONF).rglob("*.yaml") if "recipe" not in path.parts]
    found = set()
    for path in paths:
        group = "" if path.parent == Path(CONF) else path.parent.name
        found |= {name for name, text in meanings(path, group).items() if about.search(text)}
    assert found - other <= {*PATHS, *TEXT}


def test_names_in_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [name for name in NAMES if name == name.strip() and "/" not in name]
    for name in names:
        Path(name).mkdir()
    for first in names:
        given = f"checkpoint=[{first},data (1),{first}]"
        assert parsed(quote(given)) == [first, "data (1)", first]
    assert parsed(quote("checkpoint=[not there,nor 'this, one']")) == [
        "not there",
        "nor 'this, one'",
    ]


def test_numbers_where_a_file_may_stand():
    assert parsed(quote("loss.pos_weight=2")) == 2
    assert parsed(quote("model.pos_weight=[1, 2.5]")) == [1, 2.5]
    assert parsed(quote("loss.pos_weight=a,b.npy")) == "a,b.npy"


def test_a_folder_whose_name_looks_like_a_reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("${seed}").mkdir()
    cfg = OmegaConf.create({"init": parsed(quote("init=${seed}")), "seed": 3})
    assert cfg.init == "${seed}"


# Options whose value is text of a fixed kind: a choice, a class, the name of a metric or option.
CHOICES = {
    "against", "box_order", "context", "device", "dtype", "family", "format", "from", "kind",
    "optimizer_class",
    "precision", "protocol", "refer_split", "rerank", "rerank_bank", "scheduler",
    "tokenizer", "transductive",
}  # fmt: skip
CHOICES_OF_GROUPS = re.compile(
    r"(callbacks\.\w+|scheduler)\.(mode|monitor|logging_interval|interval|anneal_strategy)|"
    r"data\.(noise_by|protocol|tokenizer)|loss\.(distance|indexing|negatives|reduction|sampling)|"
    r"model\.(activation|coding|direction|fusion|level|measure|module|norm_axis|pooling|raw_norm|"
    r"region_norm|text\.name|\w*aggregation)|logger\.tensorboard\.version|"
    r"trainer\.(accelerator|benchmark|max_time|precision|profiler|strategy)"
)
SIZES = re.compile(
    r"(chunk_size|memory_budget|regions|rerank_bank_images|shortlist|size)|"
    r"(data|loss|model|optimizer|scheduler|trainer|callbacks\.\w+)\.\w*"
    r"(dim|limit|limit_\w+|images|image|sentences|num_\w+|vocab_size|penalty|gain|total|total_steps|"
    r"max_lr|min_epochs|min_steps|every_n_train_steps)"
)


def test_every_option_that_may_hold_text_is_known():
    """A new option that takes a path or a name is put into `PATHS` or `TEXT`, or named above."""
    GlobalHydra.instance().clear()
    found = set()
    groups = [g for g in Path(CONF).iterdir() if g.is_dir() and g.name not in ("recipe", "sweep")]
    with initialize_config_dir(CONF, version_base="1.3"):
        for command in COMMANDS:
            found |= set(_texts(OmegaConf.to_container(compose(command))))
        for group in groups:
            for choice in group.glob("*.yaml"):
                if choice.stem != "base":
                    given = compose("train", [f"{group.name}={choice.stem}"])
                    found |= set(_texts(OmegaConf.to_container(given)))
    found -= {*PATHS, *TEXT, *CHOICES}
    known = (CHOICES_OF_GROUPS, SIZES)
    assert not [key for key in found if not any(kind.fullmatch(key) for kind in known)]


def _texts(node, prefix=""):
    """Name the options whose value is text or null; references are counted where they lead."""
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _texts(value, f"{prefix}{key}.")
        elif key != "_target_" and _is_text(value):
            yield prefix + key


def _is_text(value):
    return value is None or (isinstance(value, str) and not value.startswith("${"))


@pytest.mark.parametrize("typed", [["--model", "vsepp"], ["--model=vsepp"], ["seed=1", "--model"]])
def test_options_with_dashes_are_explained(typed):
    with pytest.raises(ValueError, match="write model=VALUE, without dashes"):
        read_arguments(typed, "train")
    assert read_arguments(["-m", "seed=1,2", "--config-dir", "conf"], "train")


@pytest.mark.parametrize(
    "typed",
    [
        ["lr=1", "-m", "seed=0,1", "lr=1"],
        ["-m", "lr=1", "seed=0,1", "lr=1"],
        ["lr=1", "seed=0,1", "--multirun", "lr=1"],
        ["lr=1", "--config-dir", "conf", "seed=0,1", "-m", "lr=1"],
    ],
)
def test_flags_may_stand_between_options(typed):
    found = read_arguments(typed, "train")
    parsed = get_args_parser().parse_args(found)
    assert parsed.multirun and [key_of(x) for x in parsed.overrides] == ["lr", "seed", "lr"]
    assert parsed.config_dir == ("conf" if "conf" in typed else None)


def test_a_word_is_no_option():
    for word in ("foo", "help me"):
        with pytest.raises(ValueError, match=f"{word}: write OPTION=VALUE"):
            read_arguments(["lr=1", word], "train")
    assert read_arguments(["--cfg", "job", "~recipe"], "train") == ["--cfg", "job", "~recipe"]


def test_an_option_that_is_given_twice_is_told(capsys):
    tell_repeated(["out=a", "lr=1", "+out=b", "lr=1", "~recipe"])
    assert capsys.readouterr().err == "out is given twice: +out=b replaces out=a\n"
    tell_repeated(["loss=sam", "loss={margin: 0.3}"])  # both count, see the next test
    assert not capsys.readouterr().err


def test_options_of_a_group_do_not_replace_its_choice():
    both = config.compose(rewrite_choices(["loss=sam", "loss={margin: 0.3}", "loss={weight: 2}"]))
    assert [both.loss[key] for key in ("_target_", "margin", "weight")] == [
        "itm.losses.SAM",
        0.3,
        2,
    ]


def test_null_among_several_values():
    choices = rewrite_choices(["scheduler=step,none,null", "model=vsrn"])
    assert choices == ["scheduler=step,none", "model=vsrn"]
    with pytest.raises(ValueError, match="null cannot be one of several values"):
        rewrite_choices(["recipe=null,base"])
    with pytest.raises(ValueError, match="model must be .*, got null"):
        rewrite_choices(["model=vsrn,null"])


@pytest.mark.parametrize("group", ["model", "loss", "data", "trainer", "callbacks", "logger"])
def test_a_needed_group_cannot_be_left_out(group):
    with pytest.raises(ValueError, match=f"^{group} must be '.*', and cannot be left out"):
        rewrite_choices([f"~{group}"])
    assert rewrite_choices(["~recipe", "~scheduler"]) == ["~recipe", "~scheduler"]


def test_a_file_of_ones_own_that_would_not_be_read(tmp_path):
    """Hydra prefers ours of the same name, so that changes in the copy had no effect."""
    own = tmp_path / "conf/loss/triplet.yaml"
    own.parent.mkdir(parents=True)
    typed = ["--config-dir", str(tmp_path / "conf"), "lr=1"]
    own.write_bytes((Path(CONF) / "loss/triplet.yaml").read_bytes())
    assert read_arguments(typed, "train") == typed  # a copy that says the same
    own.write_text("_target_: itm.losses.Triplet\nmargin: 0.5\n")
    with pytest.raises(ValueError, match="would not be read, .*such as loss/my_triplet.yaml"):
        read_arguments(typed, "train")
    own.rename(own.with_stem("my_triplet"))
    assert read_arguments(typed, "train") == typed
