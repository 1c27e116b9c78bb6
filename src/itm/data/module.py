"""`RegionDataModule`: precomputed region features and captions for every matcher.

Features stay memory-mapped on disk; a batch reads only its own rows, in the loader's workers.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from itm.batch import Captions, Pairs
from itm.data.augmentation import Augmentation
from itm.data.caption_file import caption_path
from itm.data.changed_options import OF_BATCHES, check_unread
from itm.data.collate import Reader, caption_concepts, encode_captions, relevance_index
from itm.data.fingerprint import fingerprint
from itm.data.layout import Split, read_captions, read_split
from itm.data.loaders import evaluation_loaders, training_loader
from itm.data.needs import DataNeeds, adopt, find_user
from itm.data.noise import with_noise
from itm.data.options import Loading, Splits, WordLists
from itm.data.origin import describe_origin
from itm.data.padding import widen
from itm.data.resident import look_up, read_table
from itm.data.sampler import FixedSampler, PairLoader, PairSampler
from itm.data.split import check_width, describe
from itm.data.word_cache import cached_words
from itm.data.word_lists import (
    check_source,
    find_concepts,
    find_labels,
    find_vocabulary,
    list_tokenizer,
)
from itm.text.made_from import hash_captions
from itm.text.unknown import check_known
from itm.text.vocabulary import Tokens, Vocabulary, with_mask
from itm.text.words import CaptionWords
from itm.training.lightning_private import keep_samplers
from itm.utils.checks import check_choice
from itm.utils.distributed import rank_and_size

if TYPE_CHECKING:
    from itm.text.concepts import Concepts
    from itm.text.labels import Labels


@dataclass(eq=False, repr=False)
class RegionDataModule(Loading, WordLists, Splits, pl.LightningDataModule):
    """Train, validation and test splits in the SCAN layout.

    The options are the fields of `itm.data.options.Splits`, `WordLists` and `Loading`; all but the
    folder are keywords: `RegionDataModule(root, batch_size=64, vocab="f30k_precomp_vocab.json")`.

    Attributes:
        vocabulary: words and their ids, made by `setup`.
        label_vocabulary: the labels, made by `setup` if `needs` names them.
        concept_vocabulary: the concepts, made by `setup` if `needs` names them.

    Examples:
        >>> from itm.data import RegionDataModule
        >>> from itm.scenes import write_scenes
        >>> data = RegionDataModule(write_scenes(images=(8, 4, 4)), batch_size=20, min_count=1)
        >>> data.setup()
        >>> pairs = next(iter(data.train_dataloader()))
        >>> pairs.images.regions.shape[1:], len(pairs.captions.lengths)
        (torch.Size([12, 64]), 20)
    """

    def __post_init__(self) -> None:
        pl.LightningDataModule.__init__(self)
        Splits.__post_init__(self)
        WordLists.__post_init__(self)
        Loading.__post_init__(self)
        self.root = Path(self.root).expanduser()
        self.vocabulary: Tokens | None = None
        self.label_vocabulary: Labels | None = None
        self.concept_vocabulary: Concepts | None = None
        self.adopted = DataNeeds()  # what the last matcher brought
        self._splits: dict[str, Split] = {}
        self._words: dict[tuple[str, str], CaptionWords] = {}
        self._readers: dict[str, Reader] = {}
        self._tables: dict[str, Tensor] = {}
        self._fingerprint: dict[str, str] | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute, unless it is an option that was read before.

        Other words or needs make readers and fingerprint out of date: they are made again.
        """
        check_unread(self, name, value)
        known = vars(self)
        is_other = name in OF_BATCHES and "_fingerprint" in known and known[name] != value
        super().__setattr__(name, value)
        if is_other:
            self._readers.clear()
            self._fingerprint = None

    def teardown(self, stage: str) -> None:
        """Free the features that were kept on a device."""
        self._tables.clear()

    # Splits -----------------------------------------------------------------------------------

    def split(self, stage: str) -> Split:
        """Return the split of a stage, "train", "val" or "test"; only captions are in memory.

        Raises:
            ValueError: another stage, such as the name of a split.
        """
        check_choice("stage", stage, ("train", "val", "test"))
        if stage not in self._splits:
            name = {"train": self.train, "val": self.val, "test": self.test}[stage]
            protocol = self.protocol if stage == "test" and self.limit is None else "full"
            split = read_split(self.root, name, self.captions_per_image, protocol)
            split = split.head(self.limit)
            if stage == "val":
                split = split.head(self.val_images)
            if stage == "train":
                size, given = self._train_size(split), (self.noise_ratio, self.noise_file)
                split = with_noise(split, *given, self.seed, self.noise_by, size)
            if self.phrases is not None:
                split = self.phrases.split(split, train=stage == "train")
            check_width(split, self._splits.values())
            self._splits[stage] = split
        return self._splits[stage]

    @property
    def val_split(self) -> Split:
        """Return the validation split."""
        return self.split("val")

    @property
    def test_split(self) -> Split:
        """Return the test split."""
        return self.split("test")

    def setup(self, stage: str | None = None) -> None:
        """Make the vocabulary, and the word lists that the trainer's matcher or `needs` name."""
        if self.trainer is not None:
            keep_samplers(self.trainer)
        user = find_user(self.trainer)
        if user is not None:
            adopt(self, user.data_needs(stage), stage)
        if self.vocabulary is None:
            self._check_source("vocab")
            self.vocabulary = find_vocabulary(
                self.vocab, self._train_words, self.min_count, self.tokenizer
            )
            if self.word_drop and isinstance(self.vocabulary, Vocabulary):
                self.vocabulary = with_mask(self.vocabulary)
        tokenizer = list_tokenizer(self.vocabulary, self.tokenizer)
        if "labels" in self.needs and self.label_vocabulary is None:
            self._check_source("labels")
            split = self.split("train")
            image = split.caption_image[: self._train_size(split)]
            self.label_vocabulary = find_labels(
                self.labels, self._train_words, image, self.num_labels, tokenizer
            )
        if "concepts" in self.needs and self.concept_vocabulary is None:
            self._check_source("concepts")
            split = self.split("train")
            captions = split.captions[: self._train_size(split)]
            self.concept_vocabulary = find_concepts(
                self.concepts, self._train_words, captions, self.num_concepts, tokenizer
            )
        if user is not None:
            user.take_data(self, stage)

    def _check_source(self, name: str) -> None:
        """Refuse a prepared file that was made from other captions."""
        if not self.other_captions:
            check_source(f"data.{name}", getattr(self, name), self._captions_hash)

    def _captions_hash(self) -> str:
        return hash_captions(read_captions(caption_path(Path(self.root), self.train)))

    def _split_captions(self, stage: str, tokenizer: str) -> CaptionWords:
        """Return the words of all captions of a stage, which are split once."""
        key = stage, tokenizer
        if key not in self._words:
            captions = self.split(stage).captions
            self._words[key] = cached_words(captions, tokenizer, self.cache_words)
        return self._words[key]

    def _train_words(self, tokenizer: str) -> CaptionWords:
        """Return the words of the captions that are trained on."""
        return self._split_captions("train", tokenizer).first(self._train_size(self.split("train")))

    def _train_size(self, split: Split) -> int:
        """Return how many captions, counted from the first line, are trained on."""
        return max(1, int(len(split.captions) * self.fraction))

    def reader(self, stage: str) -> Reader:
        """Return the reader of a stage, which makes its tensors."""
        if stage not in self._readers:
            self._readers[stage] = self._make_reader(stage)
        return self._readers[stage]

    def _make_reader(self, stage: str) -> Reader:
        if self.vocabulary is None:
            raise RuntimeError("call setup() before, or give the module: fit(matcher, datamodule)")
        split, train = self.split(stage), stage == "train"
        words = partial(self._split_captions, stage)
        if not self.vectors:
            captions = split.captions[: self._train_size(split)] if train else split.captions
            most = self.max_unknown if train else 1.0
            check_known(self.vocabulary, captions, most, f"the {split.noun}s of split {split.name}")
        labels = concepts = relevance = None
        if self.label_vocabulary is not None:
            labels = self.label_vocabulary.label_images(
                words(self.label_vocabulary.tokenizer), split.caption_image, split.num_images
            )
        if self.concept_vocabulary is not None:
            concepts = caption_concepts(
                self.concept_vocabulary, split, self.vocabulary, words, train
            )
        if train and "relevance" in self.needs:
            tokenizer = list_tokenizer(self.vocabulary, self.tokenizer)
            relevance = relevance_index(split, self._train_size(split), tokenizer)
        return Reader(
            split,
            encode_captions(self.vocabulary, split.captions, words),
            labels,
            concepts,
            relevance,
            split.sentence_file() if self.vectors else None,
            features=not self.resident,
            augmentation=self._augmentation() if train else None,
            as_stored=self._sends(),
        )

    def _sends(self) -> bool:
        """Tell whether batches go to another device, float16 features as they are stored."""
        device = getattr(getattr(self.trainer, "strategy", None), "root_device", None)
        return device is not None and device.type != "cpu"

    def _augmentation(self) -> Augmentation | None:
        if not self.region_drop and not self.word_drop:
            return None
        assert self.vocabulary is not None
        return Augmentation(self.vocabulary, self.region_drop, self.word_drop, self.seed)

    @property
    def sentence_dim(self) -> int:
        """Return the width of the precomputed sentence vectors."""
        return self.split("train").sentence_width()

    # Loaders ----------------------------------------------------------------------------------

    def train_sampler(self) -> PairSampler:
        """Make the sampler of the training order, with the share of this process.

        Raises:
            ValueError: fewer captions than one batch.
        """
        split, (rank, processes) = self.split("train"), rank_and_size()
        size = self._train_size(split)
        overfits = getattr(self.trainer, "overfit_batches", 0) > 0  # Lightning does not declare it
        sampler = (FixedSampler if overfits else PairSampler)(
            split.caption_image[:size],
            self.batch_size,
            self.seed,
            self.sentences,
            self.drop_last,
            rank,
            processes,
        )
        if not len(sampler):
            raise ValueError(
                f"{size} training captions do not fill one batch of {self.batch_size} on "
                f"{processes} processes; lower data.batch_size"
            )
        return sampler

    def train_dataloader(self) -> PairLoader:
        """Load batches of `Pairs`, resumable in the middle of an epoch."""
        return training_loader(self.reader("train"), self.train_sampler(), self)

    def val_dataloader(self) -> list[DataLoader]:
        """Return two loaders, one over images and one over captions."""
        limit = None if self.trainer is None else self.trainer.limit_val_batches
        return evaluation_loaders(self.reader("val"), self, limit)

    def test_dataloader(self) -> list[DataLoader]:
        """Return two loaders, one over images and one over captions."""
        limit = None if self.trainer is None else self.trainer.limit_test_batches
        return evaluation_loaders(self.reader("test"), self, limit)

    def predict_dataloader(self) -> DataLoader:
        """Refuse to predict, with a sentence in place of Lightning's.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "RegionDataModule has no loader for trainer.predict: use matcher.score(split.view(), "
            "split.captions) or matcher.embed(split.view()), or give trainer.predict a loader"
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Let a matcher check a training batch while it is on the host."""
        check = getattr(self.trainer and self.trainer.lightning_module, "check_batch", None)
        if isinstance(batch, Pairs) and check is not None:
            check(batch)
        return batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Look up the features of a batch on the device, if they are resident, or widen them."""
        if not self.resident or isinstance(batch, Captions):
            return widen(batch)
        trainer = self.trainer
        assert trainer is not None
        stage = "train" if trainer.training else "test" if trainer.testing else "val"
        device = (batch.images if isinstance(batch, Pairs) else batch).index.device
        table = self._tables.get(stage)
        if table is None or table.device != device:  # another trainer may use another device
            table = self._tables[stage] = read_table(self.split(stage), device, self.resident)
        return look_up(batch, table)

    def fingerprint(self) -> dict[str, str]:
        """Return hashes that identify these data, see `itm.data.fingerprint`."""
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self, self._train_size(self.split("train")))
        return self._fingerprint

    def origin(self) -> dict[str, Any] | None:
        """Describe what is trained on, see `itm.data.origin`; None for phrases, which repeat."""
        split = self.split("train")
        if self.noise_ratio or self.noise_file is not None:  # captions mark their own image
            split = read_split(self.root, self.train, self.captions_per_image).head(self.limit)
        return None if self.phrases else describe_origin(split, self._train_size(split))

    def describe(self) -> str:
        """Describe each split in a line: images, captions, regions, width."""
        splits = {stage: self.split(stage) for stage in ("train", "val", "test")}
        return describe(splits, self._train_size(splits["train"]))
