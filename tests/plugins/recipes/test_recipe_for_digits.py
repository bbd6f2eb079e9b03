"""The recipe for any method on digits: chosen where no recipe of their own fits, and nowhere else."""

from __future__ import annotations

import pytest

from ddfw.config.catalog import catalog
from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.config.recipes import choose, recipes

OWN = {("pixel", "mtt"), ("pixel", "mct"), ("lss", "mtt"), ("lss", "mct")}
PARAMS = sorted(e.name for e in catalog().entries("param"))


def pick(**tables):
    known = recipes()
    return choose(known.values(), known["default"], [tables]).name


@pytest.mark.parametrize("param", PARAMS)
@pytest.mark.parametrize("traj", ["mtt", "mct"])
def test_every_param_on_digits_gets_its_own_recipe_or_the_common_one(param, traj):
    """Broken: a new method would run with a network for 32×32 photographs, or a tuned recipe would not be found."""
    expected = f"digits-ipc1-{param}-{traj}" if (param, traj) in OWN else "digits"
    flags = {"data": {"name": "digits"}, "param": {"name": param}, "traj": {"name": traj}}
    assert gather(None, flags, ()).recipe == expected
    config = structured_config(gather(None, flags, ()))
    assert (config.run.recipe, config.param.name, config.traj.name) == (expected, param, traj)
    assert (config.model.depth, config.model.width) == (2, 32)


def test_there_is_a_param_without_a_recipe_of_its_own():
    """Broken: the test above would be about nothing."""
    assert set(PARAMS) - {p for p, _ in OWN}


def test_another_number_of_images_leaves_the_tuned_recipes():
    """Broken: figures tuned for one image per class would be taken for ten."""
    for param, traj in OWN:
        tables = {"data": {"name": "digits"}, "param": {"name": param}, "traj": {"name": traj}}
        assert pick(**tables, budget={"ipc": 1}) == f"digits-ipc1-{param}-{traj}"
        assert pick(**tables, budget={"ipc": 10}) == "digits"


def test_other_data_keeps_the_default():
    """Broken: an archive of photographs would get a network for 8×8 pixels."""
    assert pick(data={"name": "npz"}, param={"name": "linba"}) == "default"
    assert pick(data={"name": "npz"}) == "default"


def test_it_says_that_it_is_not_tuned():
    """Broken: a first run of a new method would pass for the method's best."""
    assert not recipes()["digits"].tuned and "not tuned" in recipes()["digits"].summary
    assert recipes()["digits"].selects == {"data": "digits"}
