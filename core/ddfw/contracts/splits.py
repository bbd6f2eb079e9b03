"""Labelled images in three splits, of which the test split is sealed.

Shapes: n images, m classes, C channels, H rows, W columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attrs import define, evolve, field, frozen

from ddfw.contracts.classes import class_number
from ddfw.contracts.data_checks import check_parts, check_splits, data_notes
from ddfw.contracts.subsets import held_back, stratified_split
from ddfw.errors import DataError, OptionError
from ddfw.randomness import Stream, derive_seed

if TYPE_CHECKING:
    from torch import Tensor

#: Classes are called imbalanced if the largest has at least this many times the images of the smallest.
IMBALANCED = 1.5


@frozen(kw_only=True)
class ImageSpec:
    """The shape of one image and the number of classes.

    Args:
        channels: number C of channels.
        height: number H of rows.
        width: number W of columns.
        num_classes: number m of classes.
    """

    channels: int
    height: int
    width: int
    num_classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape (C, H, W) of one image."""
        return self.channels, self.height, self.width

    @property
    def floats_per_image(self) -> int:
        """Number C·H·W of values of one image."""
        return self.channels * self.height * self.width


@frozen(kw_only=True)
class Split:
    """Labelled images.

    Args:
        images: [n, C, H, W] uint8 or floating point, in [0, max_value].
        labels: [n] int64, classes in [0, m).
    """

    images: Tensor
    labels: Tensor

    def take(self, rows: Tensor) -> Split:
        """The images whose numbers (int64), or whose positions in a mask [n] (bool), are `rows`."""
        return Split(images=self.images[rows], labels=self.labels[rows])


@define
class SealedSplit:
    """The test split; it counts how often it is read, in `reads`."""

    _split: Split
    reads: int = field(default=0, init=False)

    def read(self) -> Split:
        """Returns the split and adds one to `reads`, which is recorded in the run's manifest."""
        self.reads += 1
        return self._split

    def fingerprint(self, digest: Callable[[Split], str]) -> str:
        """The hash that `digest` computes of the split; it does not count as reading, since it reveals no image."""
        return digest(self._split)

    @property
    def last_read(self) -> Split:
        """Returns the split again, after a first `read`, without counting.

        Raises:
            RuntimeError: the split has not been read.
        """
        if not self.reads:
            raise RuntimeError("the test split has not been read")
        return self._split

    def __len__(self) -> int:
        return len(self._split.labels)


@frozen(kw_only=True)
class Splits:
    """A loaded data set.

    Args:
        train: the images that experts and synthetic images learn from.
        validation: images taken from the training images; they select the outer step and the baselines' settings.
        test: the images of the final evaluation, which reads them once.
        spec: image shape and number of classes.
        max_value: the value of the brightest pixel (255 for uint8 photographs).
        class_names: the m names of the classes, in the order of the labels.
        source: where the images come from, one line for the card.
        licence: the data's licence in a few words, or that none is stated.
        notes: what a user has to know about how the data were read, one line each.
    """

    train: Split
    validation: Split
    test: SealedSplit
    spec: ImageSpec
    max_value: float
    class_names: tuple[str, ...]
    source: str
    licence: str
    notes: tuple[str, ...] = ()

    def class_counts(self) -> tuple[int, ...]:
        """Number of images of each class in the training and validation splits together."""
        counts = sum(s.labels.bincount(minlength=self.spec.num_classes) for s in (self.train, self.validation))
        return tuple(int(n) for n in counts)  # type: ignore[union-attr]

    def counts(self) -> str:
        """The numbers of images and classes as a sentence, which points out classes of very different sizes."""
        sizes = self.class_counts()
        words = (
            f"{len(self.train.labels):,} training, {len(self.validation.labels):,} validation, {len(self.test):,} test "
            f"images of {self.spec.num_classes} classes"
        )
        if max(sizes) < IMBALANCED * min(sizes):
            return words
        few, many = (self.class_names[sizes.index(n)] for n in (min(sizes), max(sizes)))
        return (
            f"{words}; imbalanced: {min(sizes):,} of {few}, {max(sizes):,} of {many} – a synthetic set has as many of "
            "each; data.per_class evens real ones out"
        )

    @classmethod
    def carve(
        cls,
        train: Split,
        test: Split,
        *,
        validation: Split | None = None,
        validation_fraction: float,
        split_seed: int,
        max_value: float,
        class_names: Sequence[str],
        source: str,
        licence: str,
        notes: Sequence[str] = (),
    ) -> Splits:
        """Checks a training and a test split and takes a stratified validation split from the training images.

        Args:
            train: all training images.
            test: all test images.
            validation: all validation images, if the data come with some; then none are taken from the training images.
            validation_fraction: fraction of each class's training images to use for validation, in (0, 1).
            split_seed: seed of the random choice, an integer >= 0.
            max_value: the value of the brightest pixel.
            class_names: the m names of the classes, in the order of the labels.
            source: where the images come from, one line for the card.
            licence: the data's licence in a few words, or that none is stated.
            notes: what a user has to know about how the data were read, one line each.

        Raises:
            DataError: shapes do not fit, a label is out of range, a class is empty, or a pixel is not finite.
        """
        num_classes = len(class_names)
        parts = {"train": train, **({} if validation is None else {"validation": validation}), "test": test}
        check_parts(parts, num_classes, max_value)
        if validation is None:
            _require_two(train, class_names)
            seed = derive_seed(split_seed, Stream.VALIDATION_SPLIT)
            kept, held = stratified_split(train.labels, validation_fraction, seed)
            train, validation = train.take(kept), train.take(held)
        channels, height, width = train.images.shape[1:]
        return cls(
            train=train,
            validation=validation,
            test=SealedSplit(test),
            spec=ImageSpec(channels=channels, height=height, width=width, num_classes=num_classes),
            max_value=max_value,
            class_names=tuple(class_names),
            source=source,
            licence=licence,
            notes=tuple(notes),
        )

    def checked(self) -> Splits:
        """The same splits after a check, which does not count as reading the test split.

        Raises:
            DataError: splits from which no run can learn, or which contradict each other.
        """
        if len(self.class_names) != self.spec.num_classes:
            raise DataError(
                f"the data have {self.spec.num_classes} classes, but class_names has {len(self.class_names)}"
            )
        check_splits(self._parts(), self.class_names, self.max_value)
        return self

    def annotated(self) -> Splits:
        """The same checked splits with notes about what makes their figures mean something else than they seem to.

        This does not count as reading the test split: nothing is chosen by what is found there.
        """
        found = data_notes(self._parts(), self.class_names, self.max_value)
        return evolve(self, notes=(*self.notes, *found)) if found else self

    def _parts(self) -> dict[str, Split]:
        return {"train": self.train, "validation": self.validation, "test": self.test._split}

    def narrowed(
        self,
        *,
        classes: Sequence[str | int] | None = None,
        per_class: int | None = None,
        test_per_class: int | None = None,
        validation_fraction: float,
        seed: int,
    ) -> Splits:
        """Keeps some classes, and of each class a random choice of images in their old order.

        Args:
            classes: names or numbers of the classes to keep; the first becomes class 0, and so on; None: all.
            per_class: number of images to keep of each class for training and validation together; None: all.
            test_per_class: number of test images to keep of each class; None: all.
            validation_fraction: fraction of `per_class` to use for validation, in (0, 1).
            seed: seed of the random choice, an integer >= 0.

        Raises:
            OptionError: a class is unknown, or has fewer images than asked for.
        """
        found = self if classes is None else self._of_classes(classes)
        if per_class is not None:
            held = held_back(validation_fraction, per_class)
            found = evolve(
                found,
                train=found._chosen(found.train, per_class - held, per_class, seed, 0),
                validation=found._chosen(found.validation, held, per_class, seed, 1),
            )
        if test_per_class is not None:
            # This does not count as reading the test split: no image leaves it, and the result is sealed again.
            test = found._chosen(found.test._split, test_per_class, test_per_class, seed, 2)
            found = evolve(found, test=SealedSplit(test))
        return found

    def _of_classes(self, classes: Sequence[str | int]) -> Splits:
        import torch

        numbers = [class_number(c, self.class_names) for c in classes]
        if len(set(numbers)) != len(numbers) or len(numbers) < 2:
            raise OptionError(f"needs at least two different classes, got {', '.join(map(str, classes))}", "classes")
        new = torch.full((self.spec.num_classes,), -1)
        new[numbers] = torch.arange(len(numbers))
        for name, split in (("validation", self.validation), ("test", self.test._split)):
            if not bool((new[split.labels] >= 0).any()):
                raise OptionError(f"the {name} split has no image of these classes", "classes")

        def keep(split: Split) -> Split:
            return evolve(split, labels=new[split.labels]).take(new[split.labels] >= 0)

        return evolve(
            self,
            train=keep(self.train),
            validation=keep(self.validation),
            test=SealedSplit(keep(self.test._split)),
            spec=evolve(self.spec, num_classes=len(numbers)),
            class_names=tuple(self.class_names[n] for n in numbers),
        )

    def _chosen(self, split: Split, count: int, asked: int, seed: int, which: int) -> Split:
        import torch

        rng = torch.Generator().manual_seed(derive_seed(seed, Stream.SUBSET, which))
        rows = []
        for label, name in enumerate(self.class_names):
            members = (split.labels == label).nonzero().flatten()
            if len(members) < count:
                if which == 2 or self.class_counts()[label] < asked:
                    there = len(members) if which == 2 else self.class_counts()[label]
                    option, words = ("test_per_class", "test") if which == 2 else ("per_class", "training")
                    raise OptionError(f"class {name} has {there:,} {words} images, {asked:,} were asked for", option)
                raise OptionError(
                    f"class {name} has {len(members):,} {('training', 'validation')[which]} images in the data's own "
                    f"split, {count:,} were asked for by data.per_class and data.validation",
                    "per_class",
                )
            rows.append(members[torch.randperm(len(members), generator=rng)[:count]])
        return split.take(torch.cat(rows).sort().values)


def _require_two(train: Split, class_names: Sequence[str]) -> None:
    """Refuses a class with fewer than two training images, one of which becomes a validation image."""
    counts = train.labels.bincount(minlength=len(class_names))
    if int(counts.min()) < 2:
        empty = ", ".join(class_names[i] for i in (counts < 2).nonzero().flatten().tolist()[:5])
        raise DataError(f"every class needs at least 2 training images, one of them for validation; short: {empty}")


__all__ = ["ImageSpec", "SealedSplit", "Split", "Splits"]
