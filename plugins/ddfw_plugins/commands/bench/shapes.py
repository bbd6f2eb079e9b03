"""Names and sizes of what `ddfw bench` can measure. Importing this module loads no torch."""

from __future__ import annotations

from attrs import evolve, frozen

#: Groups of measurements, in the order in which they are done.
BENCH_GROUPS = ("outer", "memory", "augment", "expert", "ensemble", "workers")


@frozen(kw_only=True)
class BenchShape:
    """A size of work: one outer step of a ConvNet on random images.

    Args:
        name: the name that users type.
        about: the experiment that has this size.
        depth: number of blocks of the ConvNet.
        width: number of channels of each block.
        side: height and width of the images, in pixels.
        channels: number of colour channels of the images.
        images: number of synthetic images.
        steps: N, the number of inner steps.
        num_classes: number of classes.
        batch: number of images of each inner step; 0 for all of them.
    """

    name: str
    about: str
    depth: int
    width: int
    side: int
    channels: int
    images: int
    steps: int
    num_classes: int = 10
    batch: int = 0

    @property
    def title(self) -> str:
        """The experiment, its network and its images in one line."""
        network = f"ConvNet {self.depth}×{self.width}"
        return f"{self.about}: {network}, {self.images} images {self.side}×{self.side}, N = {self.steps}"


_IPC1 = BenchShape(
    name="cifar-ipc1", about="CIFAR-10, ipc 1", depth=3, width=128, side=32, channels=3, images=10, steps=20
)
_IPC10 = evolve(_IPC1, name="cifar-ipc10", about="CIFAR-10, ipc 10", images=100, steps=10)
_DIGITS = BenchShape(name="digits", about="digits, ipc 1", depth=2, width=32, side=8, channels=1, images=10, steps=20)
BENCH_SHAPES = {shape.name: shape for shape in (_DIGITS, _IPC1, _IPC10)}
#: Sizes that only the preset for GPUs measures.
_IPC50 = evolve(_IPC1, name="cifar-ipc50", about="CIFAR-10, ipc 50", images=500, steps=10)
_CIFAR100 = evolve(
    _IPC1, name="cifar100-ipc50", about="CIFAR-100, ipc 50", images=5000, steps=80, num_classes=100, batch=125
)
GPU_SHAPES = {**BENCH_SHAPES, **{shape.name: shape for shape in (_IPC50, _CIFAR100)}}
