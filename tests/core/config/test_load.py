"""A resolved configuration runs again and is then the same configuration."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfw.config.catalog import as_table
from ddfw.config.layers import gather
from ddfw.config.load import config_text, resolve, structured_config
from ddfw.pipeline.runner import Places, directory_for

FLOATS = st.floats(min_value=1e-9, max_value=1e9)
COUNTS = st.integers(1, 10**6)
TEXTS = st.text(min_size=1, max_size=12)

PARAM = st.one_of(
    st.fixed_dictionaries({"name": st.just("pixel")}, optional={"lr": FLOATS}),
    st.fixed_dictionaries(
        {"name": st.just("lss")},
        optional={
            "rank": COUNTS,
            "rank_h": COUNTS,
            "ranks": st.lists(COUNTS, min_size=1, max_size=3),
            "pairing": st.sampled_from(["own", "all"]),
            "lr_mappers": FLOATS,
        },
    ),
)
TRAJ = st.one_of(
    st.fixed_dictionaries({"name": st.just("mtt")}, optional={"expert_epochs": COUNTS}),
    st.fixed_dictionaries(
        {"name": st.just("mct")},
        optional={
            "continuous": st.booleans(),
            "waypoints": st.one_of(st.sampled_from(["paper", "official"]), st.just([0, 3, 7])),
        },
    ),
)
LABELS = st.one_of(
    st.just({"name": "hard"}),
    st.fixed_dictionaries({"name": st.just("soft")}, optional={"lr": FLOATS}),
    st.fixed_dictionaries({"name": st.just("teacher")}, optional={"epoch": COUNTS, "experts": COUNTS}),
)
DATA = st.one_of(
    st.fixed_dictionaries({"name": st.just("digits")}, optional={"space": st.sampled_from(["standard", "none"])}),
    st.fixed_dictionaries(
        {"name": st.just("npz"), "path": TEXTS},
        optional={"class_names": st.lists(TEXTS, max_size=3), "max_value": FLOATS, "per_class": st.integers(2, 99)},
    ),
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "param": PARAM,
        "traj": TRAJ,
        "labels": LABELS,
        "data": DATA,
        "budget": st.fixed_dictionaries(
            {}, optional={"ipc": COUNTS, "accounting": st.sampled_from(["strict", "pixels"])}
        ),
        "run": st.fixed_dictionaries({}, optional={"seed": st.integers(0, 2**70)}),
        "gradient": st.fixed_dictionaries({}, optional={"memory": st.one_of(st.just("auto"), st.integers(0, 2**50))}),
        "eval": st.fixed_dictionaries(
            {}, optional={"baseline_lrs": st.lists(FLOATS, min_size=1, max_size=3), "select_epochs": COUNTS}
        ),
        "executor": st.fixed_dictionaries({"name": st.just("cpu")}, optional={"threads": st.integers(1, 1024)}),
        "observers": st.dictionaries(st.sampled_from(["progress", "metrics"]), st.just({}), max_size=2),
    },
)


@settings(deadline=None, max_examples=60)
@given(flags=SETTINGS)
def test_a_resolved_configuration_read_back_is_equal_to_the_one_that_wrote_it(tmp_path_factory, flags):
    """Broken: `ddfw run RUN/config.toml` would be another run than RUN."""
    config = structured_config(gather(None, flags, ()))
    path = tmp_path_factory.getbasetemp() / "resolved.toml"
    path.write_text(config_text(config), encoding="utf-8", newline="")
    again = structured_config(gather(str(path), {}, ()))
    assert again == config
    assert config_text(again) == config_text(config)


def test_the_document_names_every_table_of_the_configuration():
    """Broken: a setting would be left to chance when the file is used with a later version."""
    document = tomllib.loads(config_text(structured_config(gather(None, {}, ()))))
    assert set(document) == {
        "run", "budget", "data", "experts", "param", "traj", "loss", "labels", "model", "augment", "executor",
        "observers", "outer", "window", "gradient", "eval", "cross",
    }  # fmt: skip
    for table in ("data", "param", "traj", "loss", "labels", "model", "augment", "executor"):
        assert document[table]["name"]


def test_the_default_directory_is_named_after_recipe_seed_and_configuration():
    """Broken: two different runs would share a directory, or one run would get a new one each time."""
    first = structured_config(gather("default", {"run": {"seed": 3}}, ()))
    other = structured_config(gather("default", {"run": {"seed": 3}, "outer": {"steps": 7}}, ()))
    place = directory_for(resolve(first), Places())
    assert place == directory_for(resolve(structured_config(gather("default", {"run": {"seed": 3}}, ()))), Places())
    assert place.parent.name == "runs" and place.name.startswith("default-s3-")
    assert len(place.name.rpartition("-")[2]) == 8
    assert directory_for(resolve(other), Places()) != place


def test_the_hash_in_a_directorys_name_is_independent_of_where_things_lie(tmp_path):
    """Broken: moving the data or the expert cache would start every run anew."""
    config = structured_config(gather(None, {}, ()))
    assert directory_for(resolve(config), Places(experts=tmp_path, data_root=tmp_path)) == directory_for(
        resolve(config), Places()
    )


@pytest.mark.parametrize("seed", [0, 12345678901234567890])
def test_large_seeds_survive(seed):
    """Broken: a seed beyond 64 bits would be rounded on its way through the file."""
    assert as_table(structured_config(gather(None, {"run": {"seed": seed}}, ())))["run"]["seed"] == seed
