"""Settings: defaults < recipe < file < flags < --set, and who had the last word."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfw.config.layers import gather
from ddfw.config.load import structured_config
from ddfw.config.recipes import Recipe, choose, recipes
from ddfw_registry import ConfigError

DEFAULT = {
    "data": {"name": "digits"},
    "param": {"name": "lss"},
    "traj": {"name": "mct"},
    "loss": {"name": "ratio"},
    "labels": {"name": "soft"},
    "model": {"name": "convnet"},
    "augment": {"name": "none"},
    "executor": {"name": "cpu"},
}


def bare(**tables: object) -> Recipe:
    return Recipe(name="default", summary="s", source="ours", selects={}, tables={**DEFAULT, **tables})


@pytest.fixture(autouse=True)
def only_names_by_default(monkeypatch) -> None:
    """A default recipe that names components and sets nothing, whatever the shipped one does."""
    monkeypatch.setattr("ddfw.config.layers.recipes", lambda: {"default": bare()})


@pytest.fixture
def two_recipes(monkeypatch) -> dict[str, Recipe]:
    """The default, and a recipe that is chosen for digits, 3 images per class, pixel, mtt."""
    known = {
        "default": bare(),
        "tuned": Recipe(
            name="tuned",
            summary="s",
            source="ours",
            selects={"data": "digits", "ipc": 3, "param": "pixel", "traj": "mtt"},
            tables={
                "param": {"name": "pixel", "lr": 7.0},
                "traj": {"name": "mtt", "expert_epochs": 3},
                "outer": {"steps": 11, "syn_steps": 12},
                "budget": {"ipc": 3},
            },
        ),
    }
    monkeypatch.setattr("ddfw.config.layers.recipes", lambda: known)
    return known


def write(folder: Path, text: str, name: str = "mine.toml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems(*args: object) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        gather(*args)
    return {p.path: p.message for p in caught.value.problems}


def test_the_shipped_recipes_say_what_they_are_and_structure_without_complaint(monkeypatch):
    """Broken: a recipe of ours would not run."""
    monkeypatch.setattr("ddfw.config.layers.recipes", recipes)
    known = recipes()
    assert "default" in known and not known["default"].selects
    for name, recipe in known.items():
        assert recipe.summary and recipe.source, name
        assert set(recipe.selects) <= {"data", "ipc", "param", "traj"}, name
        config = structured_config(gather(name, {}, ()))
        assert config.run.recipe == name


@settings(deadline=None)
@given(
    layers=st.dictionaries(st.sampled_from(["recipe", "file", "flag", "--set"]), st.integers(1, 999), min_size=1),
    other=st.integers(1, 999),
)
def test_the_last_layer_that_speaks_wins_and_is_named(tmp_path_factory, layers, other):
    """Broken: a flag would be overruled by a file, and `--print-config` would blame the wrong one."""
    base = bare(outer={"steps": layers["recipe"]}) if "recipe" in layers else bare()
    path = write(
        tmp_path_factory.getbasetemp(),
        f"[outer]\nsyn_steps = {other}\n" + (f"steps = {layers['file']}\n" if "file" in layers else ""),
        "layers.toml",
    )
    flags = {"outer": {"steps": layers["flag"]}} if "flag" in layers else {}
    assignments = [f"outer.steps={layers['--set']}"] if "--set" in layers else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddfw.config.layers.recipes", lambda: {"default": base})
        settings = gather(path, flags, assignments)
    winner = next(name for name in ("--set", "flag", "file", "recipe") if name in layers)
    assert settings.tables["outer"] == {"steps": layers[winner], "syn_steps": other}
    assert winner in settings.origins["outer.steps"]
    assert path in settings.origins["outer.syn_steps"]


def test_what_no_layer_mentions_has_the_components_default_and_no_origin():
    """Broken: defaults would be shown as somebody's decision."""
    settings = gather(None, {}, ())
    assert "outer" not in settings.tables
    assert "outer.steps" not in settings.origins
    assert settings.origins["param.name"].startswith("recipe")


def test_a_flag_that_names_another_component_replaces_the_table(tmp_path):
    """Broken: `--param pixel` after a file with `rank = 4` would fail on an option that pixel does not have."""
    path = write(tmp_path, '[param]\nname = "lss"\nrank = 4\nlr = 5.0\n')
    settings = gather(path, {"param": {"name": "pixel"}}, ())
    assert settings.tables["param"] == {"name": "pixel"}
    assert [p for p in settings.origins if p.startswith("param.")] == ["param.name"]
    assert settings.origins["param.name"] == "flag"


def test_a_flag_that_names_the_same_component_keeps_the_options(tmp_path):
    """Broken: `--param lss` on the command line would silently forget the file's rank."""
    path = write(tmp_path, '[param]\nname = "lss"\nrank = 4\n')
    settings = gather(path, {"param": {"name": "lss"}}, ())
    assert settings.tables["param"] == {"name": "lss", "rank": 4}
    assert path in settings.origins["param.rank"]
    assert settings.origins["param.name"] == "flag"


def test_a_bare_name_in_a_file_is_the_component(tmp_path):
    """Broken: `param = "pixel"` would not mean the same as a table with that name."""
    path = write(tmp_path, 'param = "pixel"\n')
    assert gather(path, {}, ()).tables["param"] == {"name": "pixel"}
    assert gather(path, {}, ("param.lr=3.0",)).tables["param"] == {"name": "pixel", "lr": 3.0}


def test_settings_that_are_no_component_are_merged_key_by_key(tmp_path):
    """Broken: one setting in [outer] would reset the others."""
    path = write(tmp_path, "[outer]\nsteps = 9\nsyn_steps = 8\n")
    merged = gather(path, {"outer": {"steps": 7}}, ("outer.batch_syn=5",)).tables["outer"]
    assert merged == {"steps": 7, "syn_steps": 8, "batch_syn": 5}


def test_a_recipe_is_chosen_by_data_ipc_param_and_traj(two_recipes):
    """Broken: tuned settings would not be found, or be used where they do not belong."""
    exact = {"data": {"name": "digits"}, "budget": {"ipc": 3}, "param": {"name": "pixel"}, "traj": {"name": "mtt"}}
    settings = gather(None, exact, ())
    assert settings.recipe == "tuned" and settings.tables["run"]["recipe"] == "tuned"
    assert settings.tables["param"] == {"name": "pixel", "lr": 7.0}
    assert settings.tables["outer"] == {"steps": 11, "syn_steps": 12}
    assert settings.origins["outer.steps"] == "recipe tuned"
    for key, value in {
        "data": {"name": "npz"},
        "budget": {"ipc": 4},
        "param": {"name": "lss"},
        "traj": {"name": "mct"},
    }.items():
        assert gather(None, {**exact, key: value}, ()).recipe == "default"


def test_a_recipe_is_also_chosen_by_what_a_file_or_set_says(two_recipes, tmp_path):
    """Broken: `--set budget.ipc=3` and `--ipc 3` would start from different recipes."""
    path = write(tmp_path, 'param = "pixel"\n[traj]\nname = "mtt"\n')
    assert gather(path, {"budget": {"ipc": 3}}, ()).recipe == "tuned"
    assert gather(None, {"traj": {"name": "mtt"}}, ("param=pixel", "budget.ipc=3")).recipe == "tuned"


def test_a_recipe_asked_for_by_name_is_taken_and_can_be_overruled(two_recipes):
    """Broken: a named recipe would win over flags, or be exchanged for another."""
    settings = gather("tuned", {"param": {"name": "lss"}}, ("outer.steps=1",))
    assert settings.recipe == "tuned"
    assert settings.tables["param"] == {"name": "lss"}
    assert settings.tables["outer"] == {"steps": 1, "syn_steps": 12}


def test_a_file_that_names_its_recipe_starts_from_it(two_recipes, tmp_path):
    """Broken: a resolved configuration that runs again would be called after another recipe."""
    path = write(tmp_path, '[run]\nrecipe = "tuned"\n[outer]\nsteps = 2\n')
    settings = gather(path, {}, ())
    assert settings.recipe == "tuned"
    assert settings.tables["outer"] == {"steps": 2, "syn_steps": 12}


def test_choosing_ignores_recipes_that_select_nothing():
    """Broken: the default recipe would match everything and hide the tuned ones."""
    default = bare()
    empty = Recipe(name="zz", summary="s", source="o", selects={}, tables={})
    assert choose([empty, default], default, []).name == "default"


@pytest.mark.parametrize("name", ["defualt", "Default", "defaul"])
def test_an_unknown_recipe_suggests_the_right_one(name):
    """Broken: a typing mistake would leave the user alone."""
    found = problems(name, {}, ())
    assert list(found) == ["run.recipe"]
    assert "Did you mean 'default'?" in found["run.recipe"] and repr(name) in found["run.recipe"]


def test_a_far_off_recipe_lists_what_there_is_and_says_how_files_are_named():
    """Broken: a file named without its ending would look like a missing recipe without a way out."""
    message = problems("qqqqqqqq", {}, ())["run.recipe"]
    assert "default" in message and ".toml" in message and "Did you mean" not in message


@pytest.mark.parametrize("content", [b"a = ", b"[run\n", b"\xff\xfe", b"a = 1\na = 2\n", b"x = nul\n"])
def test_a_file_that_is_no_toml_is_named(tmp_path, content):
    """Broken: a slip in a configuration file would end in a traceback."""
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    found = problems(str(path), {}, ())
    assert list(found) == [str(path)] and "not a readable TOML file" in found[str(path)]


@pytest.mark.parametrize("content", ["x = " + "9" * 5000, "x = " + "[" * 5000], ids=["digits", "brackets"])
def test_a_file_that_breaks_the_parser_in_other_ways_is_named_too(tmp_path, content):
    """Broken: absurd content would end as an internal error instead of a configuration error."""
    path = write(tmp_path, content)
    assert list(problems(path, {}, ())) == [path]


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    """Broken: a wrong path would end in a traceback."""
    assert "no such file" in problems(str(tmp_path / "none.toml"), {}, ())[str(tmp_path / "none.toml")]
    assert str(tmp_path) in problems(str(tmp_path), {}, ())


@pytest.mark.parametrize("value", ["[1]", "3", "{a = 1}", "true"])
def test_a_recipe_in_a_file_that_is_no_text_is_a_configuration_error(tmp_path, value):
    """Broken: `recipe = [1]` would end as an internal error."""
    path = write(tmp_path, f"[run]\nrecipe = {value}\n")
    with pytest.raises(ConfigError, match=r"run\.recipe"):
        structured_config(gather(path, {}, ()))


@pytest.mark.parametrize("text", ["outer.steps", "", "=3", ".steps=3", "outer.=3", "outer..steps=3", " = "])
def test_a_set_without_key_or_equals_sign_is_refused(text):
    """Broken: a slip in --set would be ignored."""
    found = problems(None, {}, (text,))
    assert list(found) == ["--set"] and "key.path=value" in found["--set"] and repr(text) in found["--set"]


def test_a_set_value_may_hold_equals_signs_and_spaces():
    """Broken: file names with an equals sign could not be given."""
    assert gather(None, {}, ("data.path = a=b c.npz",)).tables["data"]["path"] == "a=b c.npz"


def test_later_sets_win_and_tables_grow():
    """Broken: the order of --set would not count."""
    tables = gather(None, {}, ("outer.steps=1", "outer.syn_steps=4", "outer.steps=2")).tables
    assert tables["outer"] == {"steps": 2, "syn_steps": 4}


def test_a_component_set_by_name_and_by_option_in_either_order_is_one_table():
    """Broken: `--set param=lss --set param.rank=4` would lose one of the two."""
    for texts in (("param=lss", "param.rank=4"), ("param.rank=4", "param=lss"), ("param.name=lss", "param.rank=4")):
        assert gather(None, {}, texts).tables["param"] == {"name": "lss", "rank": 4}


@pytest.mark.parametrize("table", ["outer", "run", "budget", "param", "data", "observers", "eval", "window"])
@pytest.mark.parametrize("value", ["3", "[1]", "true"])
def test_a_value_in_place_of_a_table_is_a_configuration_error(table, value):
    """Broken: `--set outer=3` would crash somewhere inside."""
    with pytest.raises(ConfigError, match=f"{table}: expected"):
        structured_config(gather(None, {}, (f"{table}={value}",)))


def test_layers_are_not_changed_by_merging(tmp_path):
    """Broken: a second call in the same process would start from the first one's settings."""
    flags = {"param": {"name": "lss", "rank": 4}, "outer": {"steps": 3}}
    gather(None, flags, ("param.rank=2", "outer.steps=1"))
    assert flags == {"param": {"name": "lss", "rank": 4}, "outer": {"steps": 3}}
    assert "outer" not in gather(None, {}, ()).tables
