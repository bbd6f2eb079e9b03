"""Every component that ships with ddfw keeps its contract, with its defaults and with other options."""

from __future__ import annotations

import importlib.util

import attrs
import numpy as np
import pytest
import torch

from ddfw import ImageSpec, testing
from ddfw.config.catalog import catalog
from ddfw.kinds import KINDS

#: Options, besides the defaults, that take another path through a component.
VARIANTS = {
    ("param", "lss"): [
        {"rank": 3},
        {"rank": 3, "subspaces": 2},
        {"rank": 3, "subspaces": 2, "assign": "class"},
        {"rank": 3, "subspaces": 2, "assign": "none"},
        {"rank": 3, "subspaces": 2, "pairing": "all"},
        {"rank_h": 2, "rank_w": 4, "rank_channels": 1},
        {"ranks": (4, 2, 2)},
        {"ranks": (4, 2, 2), "rotation": "fixed"},
    ],
    ("traj", "mtt"): [{"expert_epochs": 1}, {"expert_epochs": 6}],
    ("traj", "mct"): [
        {"continuous": False},
        {"waypoints": "official"},
        {"waypoints": (0, 2, 6)},
        {"smoothing": "legacy"},
        {"progress": "uniform"},
        {"progress": "projected"},
        {"progress": "decreasing", "expert_epochs": 9},
    ],
    ("labels", "teacher"): [{"epoch": 0, "experts": 1}, {"temperature": 3.0}],
    ("model", "convnet"): [
        {"depth": 2, "width": 3, "norm": "none"},
        {"depth": 1, "width": 4, "first_padding": 3},
        {"width": 4, "norm": "group", "activation": "silu", "pooling": "max"},
        {"width": 4, "norm": "batch", "activation": "sigmoid"},
        {"width": 4, "norm": "layer", "activation": "leakyrelu"},
    ],
    ("model", "resnet18"): [{"width": 2, "norm": "layer", "downsampling": "average"}],
    ("augment", "dsa"): [{"families": ("scale", "rotate")}],
    ("executor", "cpu"): [{"threads": 1}, {"compile": True}],
    ("executor", "cuda"): [
        {"compile": False, "graphs": False, "together": 3},
        {"compile": False, "channels_last": False},
    ],
    ("executor", "torchrun"): [{"device": "cpu", "threads": 1}],  # a crew of one, without torchrun
    ("observer", "progress"): [{"every_s": 1e-9}],
    ("data", "digits"): [{"test": 0.5, "validation": 0.3, "space": "none"}],
    ("data", "npz"): [{"per_class": 8, "class_names": ("a", "b", "c")}],
    ("data", "cifar100"): [{"labels": "coarse"}],
    ("data", "imagefolder"): [{"size": 4, "colour": "grey"}],
}
#: What has no default.
REQUIRED = {
    ("model", "torchvision"): {"arch": "squeezenet1_1"},
    **{("model", name): {"width": 8} for name in ("alexnet", "resnet18", "vgg11")},  # their defaults take seconds
}
#: What a machine may lack, and whether it is there.
NEEDS = {
    ("executor", "cuda"): ("a GPU that PyTorch can use", torch.cuda.is_available),
    ("executor", "ray"): ("the package ray", lambda: importlib.util.find_spec("ray") is not None),
}
#: What starts a cluster or calls a compiler.
EXTENDED = [("executor", "ray", {}), ("executor", "cpu", {"compile": True})]
SPECS = {("param", "lss"): ImageSpec(channels=3, height=8, width=8, num_classes=3)}


def cases():
    """Each component of the catalogue with its defaults, then with each of its variants."""
    for kind in KINDS:
        for entry in catalog().entries(kind.id):
            for number, options in enumerate([{}, *VARIANTS.get((kind.id, entry.name), [])]):
                marks = [pytest.mark.extended] if (kind.id, entry.name, options) in EXTENDED else []
                yield pytest.param(kind.id, entry.cls, options, id=f"{kind.id}-{entry.name}-{number}", marks=marks)


@pytest.mark.parametrize(("kind", "cls", "options"), list(cases()))
def test_it_keeps_its_contract(kind, cls, options, tmp_path, official_files, monkeypatch):
    """Broken: a built-in breaks the contract, or its check has a false alarm."""
    what, is_there = NEEDS.get((kind, cls.name), ("", lambda: True))
    if not is_there():
        pytest.skip(f"{cls.name} needs {what}")
    check = getattr(testing, f"check_{kind}")
    options = {**REQUIRED.get((kind, cls.name), {}), **options}
    if kind == "data":
        needed = official_files.prepare(cls.name, tmp_path, monkeypatch) or required(cls, tmp_path)
        check(cls(**needed, **options), tmp_path)
    elif options and (kind, cls.name) in SPECS:
        check(cls(**options), spec=SPECS[kind, cls.name])
    else:
        check(cls(**options))


def required(cls, folder) -> dict[str, str]:
    """The options without defaults: the path of a small archive."""
    names = [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING]
    if not names:
        return {}
    assert names == ["path"]
    rng = np.random.default_rng(0)
    arrays = {
        f"{split}_{what}": array
        for split, count in (("train", 60), ("test", 12))
        for what, array in (
            ("images", rng.integers(0, 256, (count, 6, 5), dtype=np.uint8)),
            ("labels", np.arange(count) % 3),
        )
    }
    np.savez(folder / "small.npz", **arrays)
    return {"path": "small.npz"}


def test_there_is_one_check_for_each_kind():
    """Broken: a kind without a check."""
    assert set(testing.__all__) == {"ConformanceError", *(f"check_{kind.id}" for kind in KINDS)}
