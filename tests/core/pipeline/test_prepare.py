"""The key of an expert store: what shapes an expert is in it, and nothing else."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import pytest
from attrs import evolve, frozen

from ddfw import AbstractAugmentation, Draws, option
from ddfw.config.layers import gather
from ddfw.config.load import config_text, configure, resolve, structured_config
from ddfw.errors import DataError
from ddfw.pipeline.runner import plan
from ddfw_plugins.augmentations.dsa import Siamese
from ddfw_plugins.augmentations.none import NoAugmentation
from ddfw_plugins.executors.cpu import Cpu


@pytest.fixture
def config():
    """The default recipe's configuration."""
    return structured_config(gather("default", {"param": {"name": "lss", "rank": 4}}, ()))


def folder(config):
    return plan(config).expert_set.store.folder.name


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        ("data", {"split_seed": 1}),
        ("data", {"validation": 0.3}),
        ("data", {"space": "none"}),
        ("model", {"width": 64}),
        ("experts", {"epochs": 19}),
        ("experts", {"lr": 0.02}),
        ("experts", {"batch_size": 32}),
        ("run", {"precision": "float64"}),
    ],
)
def test_what_shapes_an_expert_changes_its_store(config, table, changes):
    """Broken: experts of another training would be taken from the cache."""
    assert folder(evolve(config, **{table: evolve(getattr(config, table), **changes)})) != folder(config)


@pytest.mark.parametrize(
    ("table", "changes"),
    [
        ("run", {"seed": 7}),
        ("experts", {"count": 3}),
        ("experts", {"seed": 5}),
        ("param", {"lr": 1.0}),
        ("outer", {"steps": 3}),
        ("eval", {"seed": 3}),
        ("executor", {"threads": 1}),
    ],
)
def test_what_does_not_shape_an_expert_leaves_its_store(config, table, changes):
    """Broken: experts would be trained again for nothing."""
    assert folder(evolve(config, **{table: evolve(getattr(config, table), **changes)})) == folder(config)


def test_the_augmentation_and_its_options_shape_an_expert(config):
    """Broken: as above, for a component's options."""
    names = {folder(evolve(config, augment=a)) for a in (NoAugmentation(), Siamese(), Siamese(families=("flip",)))}
    assert len(names) == 3


@final
@frozen(kw_only=True)
class Twice(AbstractAugmentation):
    """Another augmentation, applied twice."""

    name: ClassVar[str] = "twice"
    inner: AbstractAugmentation = option(NoAugmentation(), help="what is applied")

    def draw(self, shape, rng):
        return Draws()

    def apply(self, images, draws):
        return images


@final
@frozen(kw_only=True)
class Still(AbstractAugmentation):
    """Like none, under another name."""

    name: ClassVar[str] = "still"

    def draw(self, shape, rng):
        return Draws()

    def apply(self, images, draws):
        return images


def test_nested_components_are_told_apart_by_name():
    """Broken: two inner components without options would share experts."""
    one, other = (resolve(evolve(configure("default", {}).config, augment=a)) for a in (Twice(), Twice(inner=Still())))
    assert one.component_key("augment") != other.component_key("augment")


def test_the_brightest_pixel_is_part_of_the_key(tmp_path):
    """Broken: the same bytes read as 0 … 16 or as 0 … 255 are other images."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{split}_{what}": rng.integers(0, 17, (60, 8, 8)).astype("uint8") if what == "images" else np.arange(60) % 3
        for split in ("train", "test")
        for what in ("images", "labels")
    }
    np.savez(tmp_path / "d.npz", **arrays)

    def made(max_value):
        data = {"name": "npz", "path": str(tmp_path / "d.npz"), "max_value": max_value, "space": "none"}
        return structured_config(gather("default", {"data": data, "param": {"name": "lss", "rank": 4}}, ()))

    assert folder(made(16.0)) != folder(made(255.0))


def test_a_test_split_that_was_not_read_has_no_content_to_show(config):
    """Broken: the split could be looked at without being counted."""
    test = plan(config).splits.test
    with pytest.raises(RuntimeError, match="not been read"):
        _ = test.last_read
    assert test.reads == 0
    assert test.read() is test.last_read and test.reads == 1


def test_evaluating_a_run_on_other_data_is_refused(tmp_path):
    """Broken: a figure on changed data would stand beside the run's own."""
    from ddfw.pipeline.evaluation.asked import _require_same_data

    (tmp_path / "manifest.json").write_text('{"schema": 1, "data_sha256": "aa", "test_sha256": "bb"}')
    _require_same_data(tmp_path, "data_sha256", "aa")
    with pytest.raises(DataError, match="training images or labels are not those"):
        _require_same_data(tmp_path, "data_sha256", "ab")
    with pytest.raises(DataError, match="test images or labels are not those"):
        _require_same_data(tmp_path, "test_sha256", "aa")


def test_a_runs_own_configuration_is_read_alone(tmp_path):
    """Broken: an option that was left out on purpose would come back from the recipe."""
    config = structured_config(gather(None, {"param": {"name": "lss"}, "traj": {"name": "mct"}}, ()))
    assert config.executor.threads == 1 and config.observers
    bare = evolve(config, executor=Cpu(), observers={})
    (tmp_path / "config.toml").write_text(config_text(bare))
    assert structured_config(gather(str(tmp_path / "config.toml"), {}, ())) == bare
