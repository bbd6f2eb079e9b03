"""`digits`: the handwritten digits that come with scikit-learn, so that no download is needed."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, final

import torch
from attrs import frozen
from attrs.validators import gt, lt

from ddfw import AbstractDataset, Split, Splits, Stream, option
from ddfw.contracts.dataset import stratified_split
from ddfw.randomness import derive_seed


@final
@frozen(kw_only=True)
class Digits(AbstractDataset):
    """1,797 real 8×8 images of handwritten digits, which come with scikit-learn."""

    name: ClassVar[str] = "digits"
    citation: ClassVar[str] = """@misc{alpaydin1998digits,
  title = {Optical Recognition of Handwritten Digits},
  author = {Alpaydin, E. and Kaynak, C.},
  howpublished = {UCI Machine Learning Repository},
  year = {1998}
}"""

    test: float = option(
        0.2, validator=[gt(0.0), lt(1.0)], help="fraction of each class's images in the test split (random, seeded)"
    )

    def load(self, root: Path | None) -> Splits:
        """Loads the images and splits them; the data root is not used."""
        from sklearn.datasets import load_digits

        bunch = load_digits()
        images = torch.from_numpy(bunch.images.astype("uint8")).unsqueeze(1)
        labels = torch.from_numpy(bunch.target.astype("int64"))
        kept, held = stratified_split(labels, self.test, derive_seed(self.split_seed, Stream.TEST_SPLIT))
        return Splits.carve(
            Split(images=images[kept], labels=labels[kept]),
            Split(images=images[held], labels=labels[held]),
            validation_fraction=self.validation,
            split_seed=self.split_seed,
            max_value=16.0,
            class_names=[str(i) for i in range(10)],
            source="Optical Recognition of Handwritten Digits (UCI), as embedded in scikit-learn",
            licence="CC BY 4.0",
        )
