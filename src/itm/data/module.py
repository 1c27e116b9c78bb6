"""`RegionDataModule`: precomputed region features and captions for every matcher.

Features stay memory-mapped on disk; a batch reads only its own rows, in the loader's workers.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from itm.batch import Captions, Pairs
from itm.data.layout import Split, read_split
from itm.data.reader import Reader, caption_concepts, relevance_index, shuffled_images
from itm.data.resident import look_up, read_table
from itm.data.sampler import PairLoader, PairSampler
from itm.phrases.source import PhraseSource
from itm.text.vocabulary import Tokens, Vocabulary
from itm.utils.distributed import rank_and_size


class RegionDataModule(pl.LightningDataModule):
    """Train, validation and test splits in the SCAN layout.

    Args:
        root: folder of the files.
        train: name of the training split.
        val: name of the validation split.
        test: name of the test split, such as "test" or "testall".
        protocol: how the test split is evaluated: "f30k_1k", "coco_1k", "coco_5k", "full".
        vocab: published vocabulary JSON, or None to build one from the training captions.
        min_count: how often a word must occur to enter a built vocabulary (published: 4).
        batch_size: pairs (anchors, with several sentences) per process and step.
        workers: loader processes.
        pin_memory: page-locked batches, for GPUs.
        captions_per_image: of the files; inferred when None.
        sentences: captions per image in a batch.
        fraction: train on the captions of the first part of the file, 0 < fraction <= 1.
        noise_ratio: share of training captions whose images are shuffled among each other.
        limit: at most this many images of every split.
        val_images: at most this many images in validation.
        drop_last: leave out the last incomplete training batch.
        labels: file of the label vocabulary, such as the original's vocab_tag.json, or None to
            build one; either way its counts are those of the training captions.
        num_labels: size of a built label vocabulary.
        concepts: file or folder of the concept vocabulary (`Concepts.load`), or None to build one.
        num_concepts: size of a built concept vocabulary.
        vectors: precomputed sentence vectors: read `{split}_caps.npy` (M, F).
        phrases: train on phrases and the regions they mean, in place of captions.
        eval_batch_size: images or captions encoded at once in evaluation.
        resident: keep the features of whole splits on the device, see `itm.data.resident`: True,
            as the files have them, or "bfloat16", "float16".
        seed: of the order of training, neighbours and noise.

    Attributes:
        vocabulary: set by `setup`, or before it to use another kind of tokens.
        use_labels: make the labels; set by who builds the model.
        use_concepts: make the concepts; set by who builds the model.
        use_relevance: give each batch its CIDEr-D relevance; set by who builds the loss.
    """

    def __init__(
        self,
        root: str | Path,
        train: str = "train",
        val: str = "dev",
        test: str = "test",
        protocol: str = "full",
        vocab: str | Path | None = None,
        min_count: int = 4,
        batch_size: int = 128,
        workers: int = 0,
        pin_memory: bool = False,
        captions_per_image: int | None = None,
        sentences: int = 1,
        fraction: float = 1.0,
        noise_ratio: float = 0.0,
        limit: int | None = None,
        val_images: int | None = None,
        drop_last: bool = False,
        labels: str | Path | None = None,
        num_labels: int = 500,
        concepts: str | Path | None = None,
        num_concepts: int = 300,
        vectors: bool = False,
        phrases: PhraseSource | None = None,
        eval_batch_size: int = 256,
        resident: bool | str = False,
        seed: int = 0,
    ):
        super().__init__()
        if not 0 < fraction <= 1:
            raise ValueError(f"data.fraction={fraction} must be above 0 and at most 1 (0.1 = 10 %)")
        if not 0 <= noise_ratio <= 1:
            raise ValueError(f"data.noise_ratio={noise_ratio} must be between 0 and 1")
        if batch_size < 1:
            raise ValueError(f"data.batch_size={batch_size} must be at least 1")
        for name, images in (("limit", limit), ("val_images", val_images)):
            if images is not None and images < 1:
                raise ValueError(f"data.{name}={images} must be at least 1, or null for all")
        self.root = Path(root).expanduser()
        self.names = {"train": train, "val": val, "test": test}
        self.protocol = protocol
        self.vocab_path = vocab
        self.min_count = min_count
        self.batch_size = batch_size
        self.workers = workers
        self.pin_memory = pin_memory
        self.captions_per_image = captions_per_image
        self.sentences = sentences
        self.fraction = fraction
        self.noise_ratio = noise_ratio
        self.limit = limit
        self.val_images = val_images
        self.drop_last = drop_last
        self.labels_path = labels
        self.num_labels = num_labels
        self.concepts_path = concepts
        self.num_concepts = num_concepts
        self.vectors = vectors
        self.phrases = phrases
        self.eval_batch_size = eval_batch_size
        self.resident = resident
        self.seed = seed
        self.vocabulary: Tokens | None = None
        self.labels: Any = None
        self.concepts: Any = None
        self.use_labels = self.use_concepts = self.use_relevance = False
        self._splits: dict[str, Split] = {}
        self._readers: dict[str, Reader] = {}
        self._tables: dict[str, torch.Tensor] = {}

    # Splits -----------------------------------------------------------------------------------

    def split(self, stage: str) -> Split:
        """The split of a stage: "train", "val" or "test"; only its captions are in memory."""
        if stage not in self._splits:
            protocol = self.protocol if stage == "test" and self.limit is None else "full"
            split = read_split(self.root, self.names[stage], self.captions_per_image, protocol)
            split = split.head(self.limit)
            if stage == "val":
                split = split.head(self.val_images)
            if self.phrases is not None:
                split = self.phrases.split(split, train=stage == "train")
            self._check_width(split)
            self._splits[stage] = split
        return self._splits[stage]

    def _check_width(self, split: Split) -> None:
        """All splits must be features of one kind, which otherwise shows after an epoch."""
        for other in self._splits.values():
            if other.width != split.width:
                raise ValueError(
                    f"{split.name}_ims.npy of {split.folder} has features of width {split.width}, "
                    f"{other.name}_ims.npy of width {other.width}: extract both in the same way"
                )

    @property
    def val_split(self) -> Split:
        """The validation split."""
        return self.split("val")

    @property
    def test_split(self) -> Split:
        """The test split."""
        return self.split("test")

    def setup(self, stage: str | None = None) -> None:
        """Vocabulary, and the word lists that the model or the loss asked for."""
        if self.vocabulary is None:
            if self.vocab_path is not None:
                self.vocabulary = Vocabulary.load(self.vocab_path)
            else:
                self.vocabulary = Vocabulary.build(self._train_captions(), self.min_count)
        if self.use_labels and self.labels is None:
            from itm.text.labels import Labels

            captions = self._train_captions()
            image = self.split("train").caption_image[: len(captions)]
            if self.labels_path is not None:
                self.labels = Labels.load(self.labels_path)
                self.labels.count(captions, image)
            else:
                self.labels = Labels.build(captions, self.num_labels, caption_image=image)
        if self.use_concepts and self.concepts is None:
            from itm.text.concepts import Concepts

            if self.concepts_path is not None:
                self.concepts = Concepts.load(self.concepts_path)
                if self.concepts.adjacency is None:
                    raise ValueError(
                        f"data.concepts={self.concepts_path} holds no counts, which the concepts' "
                        "graph is made of: give the original's folder, or what itm.prepare writes"
                    )
            else:
                self.concepts = Concepts.build(self._train_captions(), self.num_concepts)

    def _train_captions(self) -> list[str]:
        split = self.split("train")
        return split.captions[: self._train_size(split)]

    def _train_size(self, split: Split) -> int:
        """How many captions are trained on: the first rows of the file."""
        return max(1, int(len(split.captions) * self.fraction))

    def reader(self, stage: str) -> Reader:
        """The tensors of a stage's split."""
        if stage not in self._readers:
            split = self.split(stage)
            assert self.vocabulary is not None, "call setup() first"
            labels = concepts = relevance = vectors = None
            if self.labels is not None and self.use_labels:
                labels = self.labels.label_images(
                    split.captions, split.caption_image, split.num_images
                )
            if self.concepts is not None and self.use_concepts:
                concepts = caption_concepts(self.concepts, split, self.vocabulary, stage == "train")
            if stage == "train" and self.use_relevance:
                relevance = relevance_index(split, self._train_size(split))
            if self.vectors:
                vectors = split.sentence_vectors()
            options = (labels, concepts, relevance, vectors, not self.resident)
            reader = Reader(split, self.vocabulary, *options)
            if stage == "train" and self.noise_ratio:
                reader.caption_image = shuffled_images(split, self.noise_ratio, self.seed)
            self._readers[stage] = reader
        return self._readers[stage]

    @property
    def sentence_dim(self) -> int:
        """Width of the precomputed sentence vectors."""
        return self.split("train").sentence_vectors().shape[1]

    # Loaders ----------------------------------------------------------------------------------

    def train_sampler(self) -> PairSampler:
        """The order of training, and this process's share of it."""
        split, (rank, processes) = self.split("train"), rank_and_size()
        size = self._train_size(split)
        sampler = PairSampler(
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
        """Batches of `Pairs`; resumable in the middle of an epoch."""
        reader, sampler = self.reader("train"), self.train_sampler()
        return PairLoader(
            range(len(sampler.caption_image)),  # type: ignore[arg-type]
            batch_sampler=sampler,
            collate_fn=reader.pairs if self.sentences == 1 else reader.groups,
            **self._loader_options(),
        )

    def val_dataloader(self) -> list[DataLoader]:
        """Two loaders: images once, captions once."""
        return self._evaluation_loaders("val")

    def test_dataloader(self) -> list[DataLoader]:
        """Two loaders: images once, captions once."""
        return self._evaluation_loaders("test")

    def _evaluation_loaders(self, stage: str) -> list[DataLoader]:
        """Each process gets its own share; captions by length, so that batches are tight."""
        reader, (rank, processes) = self.reader(stage), rank_and_size()
        images = np.arange(reader.split.num_images)[rank::processes]
        captions = np.argsort(reader.lengths, kind="stable")[rank::processes]
        return [
            DataLoader(
                range(len(reader.split.captions)),  # type: ignore[arg-type]
                batch_sampler=list(_blocks(rows, self.eval_batch_size)),
                collate_fn=collate,
                **self._loader_options(),
            )
            for rows, collate in ((images, reader.images), (captions, reader.captions))
        ]

    def _loader_options(self) -> dict[str, Any]:
        return {
            "num_workers": self.workers,
            "pin_memory": self.pin_memory,
            "persistent_workers": self.workers > 0,
        }

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Look up the features of a batch on the device, if they are resident."""
        if not self.resident or isinstance(batch, Captions):
            return batch
        trainer = self.trainer
        assert trainer is not None
        stage = "train" if trainer.training else "test" if trainer.testing else "val"
        if stage not in self._tables:
            device = (batch.images if isinstance(batch, Pairs) else batch).index.device
            self._tables[stage] = read_table(self.split(stage), device, self.resident)
        return look_up(batch, self._tables[stage])

    def describe(self) -> str:
        """One line per split: images, captions, regions, width."""
        lines = []
        for stage, name in self.names.items():
            split = self.split(stage)
            lines.append(
                f"{stage:5} {name}: {split.num_images} images, {len(split.captions)} captions, "
                f"{split.regions} regions of width {split.width}, {split.features.dtype}"
            )
        return "\n".join(lines)


def _blocks(rows: np.ndarray, size: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size].tolist()
