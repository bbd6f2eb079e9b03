"""`ddfw recipes`: what ships is found by words, and what is shown runs as it is shown."""

from __future__ import annotations

import json
import tomllib

import pytest

from ddfw.config.recipes import recipes

NAMES = tuple(recipes())


def tables(text):
    return tomllib.loads(text)


def test_all_recipes_are_listed_with_what_they_are(ddfw):
    """Broken: a recipe that ships could not be found."""
    for words in (["recipes"], ["recipes", "list"]):
        said = ddfw(*words)
        assert said.code == 0
        listed = [line.split()[0] for line in said.out.splitlines() if line.strip()]
        assert set(NAMES) <= set(listed)
    rows = json.loads(ddfw("recipes", "list", "--json").out)
    assert [row["name"] for row in rows] == list(NAMES)
    assert all(row["summary"] and row["source"] for row in rows)


def test_words_narrow_the_list_and_every_one_of_them_counts(ddfw):
    """Broken: among many recipes the right one could not be found."""

    def named(*words):
        rows = json.loads(ddfw("recipes", "list", *words, "--json").out)
        return {row["name"] for row in rows}

    digits = named("DIGITS")
    assert digits and digits < set(NAMES) and all("digits" in r.lower() for r in digits if r != "default")
    both = named("digits", "lss")
    assert both == digits & named("lss") and both
    assert named("no-such-word-anywhere") == set()
    said = ddfw("recipes", "list", "no-such-word-anywhere")
    assert said.code == 0 and "no-such-word-anywhere" in said.out + said.err


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_is_a_file_that_runs_alike(ddfw, here, name):
    """Broken: a recipe that was copied and changed in one place would differ in others."""
    shown, own = ddfw("recipes", "show", name), ddfw("run", name, "--print-config")
    assert shown.code == own.code == 0, shown.err + own.err
    assert tables(shown.out) == tables(own.out)
    (here / "copy.toml").write_text(shown.out)
    again = ddfw("run", here / "copy.toml", "--print-config")
    assert again.code == 0, again.err
    assert tables(again.out) == tables(own.out)
    recipe = recipes()[name]
    assert recipe.summary in shown.out and recipe.source in shown.out


@pytest.mark.parametrize("name", [n for n in NAMES if recipes()[n].quick] or NAMES[:1])
def test_a_recipes_quick_table_is_shown_and_runs_alike(ddfw, here, name):
    """Broken: nobody could see what a quick run takes other than the recipe."""
    shown = ddfw("recipes", "show", name, "--quick")
    assert shown.code == 0, shown.err
    found = tables(shown.out)

    def said(table, quick, above=""):
        for key, value in quick.items():
            if isinstance(value, dict):
                said(table[key], value, key)
            elif above == "window" or key == "select_epochs":  # never wider, and fewer passes over many images
                assert table[key] <= value, key
            else:
                assert table[key] == value, key

    said(found, recipes()[name].quick)
    assert tables(ddfw("run", name, "--quick", "--print-config").out) == found
    assert found["run"]["quick"] is True
    (here / "copy.toml").write_text(shown.out)
    again = ddfw("run", here / "copy.toml", "--print-config")
    assert again.code == 0, again.err
    assert tables(again.out) == found


def test_a_recipe_as_json_has_the_same_settings(ddfw):
    """Broken: programs would see other settings than people."""
    for words in ([], ["--quick"]):
        (record,) = ddfw("recipes", "show", "digits", *words, "--json").events
        recipe = recipes()["digits"]
        assert (record["name"], record["summary"], record["source"]) == ("digits", recipe.summary, recipe.source)
        shown = tables(ddfw("recipes", "show", "digits", *words).out)

        def strip(value):
            if isinstance(value, dict):
                return {k: strip(v) for k, v in value.items() if v is not None}
            return value

        assert json.loads(json.dumps(strip(record["settings"]))) == shown


def test_values_that_the_recipe_does_not_say_itself_have_their_origin_beside_them(ddfw):
    """Broken: one could not tell what the recipe is responsible for."""
    said = ddfw("recipes", "show", "digits").out
    (steps,) = [line for line in said.splitlines() if line.startswith("syn_steps")]
    assert "#" not in steps
    (floor,) = [line for line in said.splitlines() if line.startswith("step_size_floor")]
    assert floor.split("#")[1].strip() == "default"


def test_an_unknown_recipe_is_refused_with_the_nearest_name(ddfw):
    """Broken: a slip of the finger would be an internal error."""
    ddfw("recipes", "show", "digit").refused(2, "digit", "Did you mean 'digits'?")
    ddfw("recipes", "sho").refused(2, "sho")
    ddfw("recipes", "show").refused(2, "NAME")
    ddfw("recipes", "show", "missing.toml").refused(2, "missing.toml")
