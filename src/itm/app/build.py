"""Build data, loss and matcher of a configuration.

Configuration objects stop here. The signatures of the constructors are the schema: an argument that
a constructor does not take raises an error that names the class.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf, open_dict

from itm.app.arguments import key_of
from itm.app.batch_limits import limited_batches
from itm.app.choices import check_recipe, group_files, rewrite_choices
from itm.app.config import compose, instantiate, target
from itm.app.optimisation import build_optimizer, build_schedule, values_in_vain
from itm.app.option_types import check_types
from itm.app.plain_errors import without_call
from itm.app.quoting import quote
from itm.app.ranges import check_ranges
from itm.app.unused import needs_of, unused_options
from itm.checkpoints.initialise import start_from
from itm.utils.hub import check_hub_name

if TYPE_CHECKING:
    from itm.data.module import RegionDataModule
    from itm.losses.base import LossFunction
    from itm.matcher.matcher import Matcher
    from itm.text.vocabulary import Tokens


# What only `itm.train` reads.
OF_TRAINING = {
    "callbacks", "deterministic", "gradient_clip_val", "logger", "overwrite", "resume", "sweep",
    "test",
}  # fmt: skip


def list_models() -> list[str]:
    """List the names that `model=` takes."""
    return group_files("model")


def build(
    model: str = "vsrn",
    loss: str = "triplet",
    data: str = "scenes",
    overrides: Sequence[str] = (),
) -> Matcher:
    """Build a new matcher from the same YAML files as the command line, for notebooks.

    Args:
        model: one of `list_models()`.
        loss: name of a file in `conf/loss/`, such as "triplet", "sam" or "infonce".
        data: "scenes", "coco", "f30k", "flickr8k" or "phrases"; it determines vocabulary and sizes.
        overrides: further command-line overrides such as "model.embed_dim=256". With `seed=N` the
            initial weights are those of `itm.train seed=N`; else they come from torch's global
            generator.

    Returns:
        The matcher; `matcher.data` is its data module, ready to fit.

    Raises:
        ValueError: a name or an option does not exist, a value has the wrong type or is out of
            range, files do not fit, or only `itm.train` reads an option.
        FileNotFoundError: a file or folder does not exist.
        TypeError: a choice is an object, not a name.
    """
    for group, choice in {"model": model, "loss": loss, "data": data}.items():
        _check_name(group, choice)
    if isinstance(overrides, str):
        raise ValueError(f"overrides must be a list such as [{overrides!r}], got a string")
    is_list = isinstance(overrides, list | tuple)
    if not is_list or not all(isinstance(option, str) for option in overrides):
        raise ValueError(
            f"overrides must be a list of texts such as ['data.limit=50'], got {overrides!r}"
        )
    given = {key_of(option).split(".")[0] for option in overrides}
    if unread := sorted(given & OF_TRAINING):
        raise ValueError(
            f"itm.build makes a matcher and its data and does not read {', '.join(unread)}: give "
            "its meaning to pl.Trainer, or train with python -m itm.train"
        )
    options = [f"model={model}", f"loss={loss}", f"data={data}", *map(quote, overrides)]
    rewritten = rewrite_choices(options)
    check_types("train", rewritten)
    try:
        cfg = compose(rewritten, with_hydra=True)
    except HydraException as error:
        from itm.app.wrong_options import diagnose  # late: what it imports takes a moment

        raise ValueError(diagnose(error, "train", options) or str(error)) from error
    runtime = cfg.hydra.runtime
    check_recipe(options, [x.path for x in runtime.config_sources if x.schema == "file"])
    with open_dict(cfg):
        del cfg["hydra"]
    check_ranges(cfg)
    for line in (
        *unused_options(cfg, options).values(),
        *values_in_vain(cfg, overrides, runtime.choices),
        *_for_the_trainer(cfg, given),
    ):
        print(line)
    try:
        return _build(cfg, "seed" in given)
    except InstantiationException as error:
        raise without_call(error) from error


def _build(cfg: DictConfig, seeded: bool) -> Matcher:
    datamodule = build_data(cfg)
    if not seeded:
        return build_matcher(cfg, datamodule)
    import torch  # late: it takes seconds
    from pytorch_lightning.utilities.seed import isolate_rng

    with isolate_rng():
        torch.manual_seed(cfg.seed)
        return build_matcher(cfg, datamodule)


def _for_the_trainer(cfg: DictConfig, given: Collection[str]) -> Iterator[str]:
    """Say which options of the Trainer are not read; a warm-up in epochs needs its devices."""
    trainer = () if cfg.warmup_epochs else ("trainer",)
    unread = [name for name in ("max_epochs", "hydra", *trainer) if name in given]
    if unread:
        yield f"{', '.join(unread)}: itm.build makes no Trainer, so give it to yours"


def _check_name(group: str, choice: Any) -> None:
    """Check that a choice is a name (None has an error of its own), not an object or a path.

    Raises:
        TypeError: it is a class or another object, for which no YAML file is needed.
        ValueError: it is a path.
    """
    if choice is not None and not isinstance(choice, str):
        kind = choice if isinstance(choice, type) else type(choice)
        raise TypeError(
            f"{group} must be a name, such as those of list_models() and conf/, got "
            f"{kind.__name__}: use such objects without itm.build, "
            "trainer.fit(SCAN(loss=Triplet()), RegionDataModule(FOLDER))"
        )
    if choice is not None and choice.startswith(("/", "~", ".")):
        folder = f"data='f30k', overrides=['data.root={choice}'] reads a folder"
        hint = folder if group == "data" else "itm.load reads what was saved"
        raise ValueError(f"{group}={choice} must be a name of conf/{group}, not a path: {hint}")


def build_data(cfg: DictConfig) -> RegionDataModule:
    """Build the data module of a configuration, set up with what model and loss need.

    Raises:
        ValueError: `data.root` is missing.
    """
    if OmegaConf.is_missing(cfg.data, "root"):
        raise ValueError(
            "this data set needs data.root=DIR, the folder with train_ims.npy, train_caps.txt, "
            "dev_... and test_...; `python -m itm.prepare data.root=DIR` checks such a folder"
        )
    options: dict[str, Any] = {
        "needs": needs_of(target(cfg.model), target(cfg.loss)),
        "sentences": cfg.data.get("sentences") or cfg.loss.get("sentences") or 1,
    }
    text = cfg.model.get("text") or {}
    if text.get("name") == "bert":
        if cfg.data.get("vocab") is not None:
            raise ValueError(
                f"data.vocab={cfg.data.vocab}, but text=bert reads the word pieces of its own "
                "transformer: leave data.vocab out, or choose text=gru"
            )
        options["vocab"] = _bert_vocabulary(text.get("path"))
    if text.get("name") == "vectors":
        options["vectors"] = True
    datamodule = instantiate(cfg.data, **options)
    datamodule.setup()
    return datamodule


def _bert_vocabulary(path: str | None) -> Tokens:
    """Read the word pieces of the transformer in a folder or on the hub."""
    from itm.text.vocabulary import BertVocabulary  # late: imports transformers

    if not path:
        raise ValueError("text=bert needs model.text.path=FOLDER_OR_HUB_NAME")
    check_hub_name("model.text.path", path)
    return BertVocabulary.from_pretrained(path)


def build_matcher(cfg: DictConfig, datamodule: RegionDataModule) -> Matcher:
    """Build matcher and loss of a configuration; the data determine the sizes that are left open.

    Raises:
        ValueError: an explicit size contradicts the data, or word vectors or the weights of `init=`
            do not fit.
    """
    from itm.matcher.attachment import check_region_drop, data_sizes  # late: they load torch
    from itm.matcher.inputs import check_split

    if cfg.word_vectors is not None and cfg.init is not None:
        raise ValueError(f"init={cfg.init} brings its own word vectors: leave word_vectors out")
    sizes = data_sizes(datamodule, "train")
    optimizer, scheduler = build_optimizer(cfg), build_schedule(cfg)
    model = _fill(cfg.model, sizes, "model")
    read = _read_files(model, datamodule)
    matcher = instantiate(model, optimizer=optimizer, scheduler=scheduler, **read)
    check_split(datamodule.split("train"), matcher)
    check_region_drop(matcher, datamodule)
    matcher.vocab = datamodule.vocabulary
    if cfg.word_vectors is not None:
        start_words(matcher, cfg.word_vectors, cfg.seed)
    matcher.labels, matcher.concepts = datamodule.label_vocabulary, datamodule.concept_vocabulary
    if matcher.labels is not None:
        matcher.set_labels(matcher.labels)
    if matcher.concepts is not None:
        matcher.set_concepts(matcher.concepts)
    matcher.loss = build_loss(cfg, datamodule, matcher)
    matcher.data = datamodule
    if cfg.init is not None:
        start_from(matcher, cfg.init)
    matcher.chunk_size = cfg.chunk_size
    if cfg.compile:
        matcher.compile()
    return matcher


def _read_files(model: DictConfig, datamodule: RegionDataModule) -> dict[str, Any]:
    """Read the files that a model's options name, because models take numbers only."""
    from itm.text.labels import positive_weights  # late: only some configurations need them
    from itm.text.word_vectors import word_vectors

    read: dict[str, Any] = {}
    if isinstance(model.get("pos_weight"), str):
        read["pos_weight"] = positive_weights(model.pos_weight, model.num_labels)
    if isinstance(model.get("concept_vectors"), str):
        assert datamodule.concept_vocabulary is not None
        words = datamodule.concept_vocabulary.words
        read["concept_vectors"] = word_vectors(words, model.concept_vectors)
    return read


def start_words(matcher: Matcher, path: str, seed: int = 0) -> None:
    """Start the word embedding from a file of word vectors (`word_vectors=`).

    Words that the file lacks start from N(0, 1) if a GRU follows (CVSE). A mean of words keeps its
    small initial values instead, because values from N(0, 1) would outweigh the others.

    Raises:
        ValueError: the text encoder has no word embedding, or the vectors have another width.
    """
    import torch

    from itm.layers.text import as_text_encoder
    from itm.text.word_vectors import word_vectors

    text, vocab = as_text_encoder(matcher.text), cast(Any, matcher.vocab)
    if text.word_dim is None:
        raise ValueError(
            f"word_vectors={path} belongs to text=gru, mean or attend, which learn an embedding of "
            f"words; this matcher encodes text with {type(matcher.text).__name__}: leave "
            "word_vectors out"
        )
    vectors = torch.from_numpy(word_vectors(vocab.words, path, seed, text.missing_words()))
    given = vectors.shape[1]
    if given != text.word_dim:
        raise ValueError(
            f"word_vectors={path} is {given} wide, but model.word_dim={text.word_dim}; set "
            f"model.word_dim={given}"
        )
    text.start_from(vectors)


def build_loss(cfg: DictConfig, datamodule: RegionDataModule, matcher: Matcher) -> LossFunction:
    """Build the loss of a configuration; matcher and data determine the sizes left open."""
    from itm.losses.base import as_loss  # late, like all that imports torch
    from itm.matcher.attachment import data_sizes, prepare_loss

    sizes = data_sizes(datamodule, "train")
    if cfg.get("warmup_epochs"):
        cfg = cfg.copy()
        cfg.warmup_steps = _warmup_batches(cfg, datamodule)
    if "dim" in inspect.signature(target(cfg.loss)).parameters:
        sizes["dim"] = matcher.label_dim
    given = instantiate(_fill(cfg.loss, sizes, "loss"))
    prepare_loss(as_loss(given), datamodule)
    return given


def _warmup_batches(cfg: DictConfig, datamodule: RegionDataModule) -> int:
    """Convert `warmup_epochs` to batches.

    Raises:
        ValueError: `warmup_steps` is given as well, or the epochs are negative.
    """
    if cfg.warmup_steps:
        raise ValueError(
            f"warmup_epochs={cfg.warmup_epochs} and warmup_steps={cfg.warmup_steps} say the "
            "same in two ways: set one of them to 0"
        )
    if cfg.warmup_epochs < 0:
        raise ValueError(f"warmup_epochs={cfg.warmup_epochs} must be at least 0")
    devices, processes = cfg.trainer.get("devices"), 1
    if not isinstance(devices, str):
        count = devices if isinstance(devices, int) else len(devices) if devices else 1
        processes = count * (cfg.trainer.get("num_nodes") or 1)
    limit = cfg.trainer.get("overfit_batches") or cfg.trainer.get("limit_train_batches")
    return round(cfg.warmup_epochs * limited_batches(datamodule, processes, limit or 1.0))


def _fill(node: DictConfig, sizes: dict[str, Any], group: str) -> DictConfig:
    """Set the sizes that the class takes and the configuration leaves open."""
    # Within its group, whose name an error of the class is given.
    node = OmegaConf.create({group: OmegaConf.to_container(node, resolve=True)})[group]
    for name in inspect.signature(target(node)).parameters.keys() & sizes.keys():
        given = node.get(name)
        if given is None:
            node[name] = sizes[name]
        elif given != sizes[name] and sizes[name] is not None:
            raise ValueError(
                f"{group}.{name}={given}, but the data has {sizes[name]}; leave it out, or point "
                "data.root, data.vocab and data.labels at the data this value belongs to"
            )
    return node
