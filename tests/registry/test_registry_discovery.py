"""Finding and loading plugins: whatever one of them does, the others work and the broken one has a name."""

from __future__ import annotations

import sys

import pytest

GOOD = "@hookimpl\ndef toy_register_sources():\n    return []\n"


def identities(items):
    return [item.identity for item in items]


def only_failure(found):
    assert len(found.failures) == 1, found.failures
    return found.failures[0]


def test_a_plugin_is_found_loaded_and_registered_under_its_identity(install, find):
    """Nothing at all would work: the plain path from an entry point to a registered plugin."""
    install("toy-good", {"toy_good": GOOD}, {"source-a": "toy_good"}, version="2.3")
    found = find()
    assert identities(found.plugins) == ["toy-good:source-a"]
    plugin = found.plugins[0]
    assert (plugin.name, plugin.distribution, plugin.version, plugin.value) == (
        "source-a",
        "toy-good",
        "2.3",
        "toy_good",
    )
    assert plugin.obj is sys.modules["toy_good"]
    assert found.manager.get_plugin("toy-good:source-a") is plugin.obj
    assert found.failures == found.disabled == found.unknown_disabled == ()


def test_an_entry_point_may_point_to_an_object_in_a_module(install, find):
    """`module:attribute` plugins, with their bound methods, would not be found."""
    source = "class P:\n    @hookimpl\n    def toy_register_sources(self):\n        return []\none, two = P(), P()\n"
    install("toy-good", {"toy_good": source}, {"a": "toy_good:one", "b": "toy_good:two"})
    found = find()
    assert identities(found.plugins) == ["toy-good:a", "toy-good:b"]
    assert found.failures == ()


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise ValueError('first line\\n  second line')", "ValueError: first line second line"),
        ("import toy_missing_module", "ModuleNotFoundError: No module named 'toy_missing_module'"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError: "),
        ("raise BaseException", "BaseException"),
        ("class E(Exception):\n    def __str__(self): return 1\nraise E", "E"),
    ],
)
def test_a_module_that_cannot_be_imported_is_a_failure_and_the_others_work(install, find, source, error):
    """One broken plugin would take the whole program down, or go unmentioned."""
    install("toy-broken", {"toy_broken": source}, {"x": "toy_broken"}, version="0.9")
    install("toy-good", {"toy_good": GOOD}, {"a": "toy_good"})
    found = find()
    assert identities(found.plugins) == ["toy-good:a"]
    failure = only_failure(found)
    assert (failure.identity, failure.stage, failure.version) == ("toy-broken:x", "load", "0.9")
    assert failure.value == "toy_broken"
    assert failure.error.startswith(error)


def test_an_interrupt_is_not_a_plugins_failure(install, find):
    """Ctrl-C while a heavy plugin is imported would be swallowed."""
    install("toy-broken", {"toy_broken": "raise KeyboardInterrupt"}, {"x": "toy_broken"})
    with pytest.raises(KeyboardInterrupt):
        find()


def test_an_error_is_kept_to_one_short_line(install, find):
    """A plugin's page-long message would drown the list it stands in."""
    install("toy-broken", {"toy_broken": "raise ValueError('long\\n' * 500)"}, {"x": "toy_broken"})
    error = only_failure(find()).error
    assert len(error) <= 300
    assert "\n" not in error


def test_a_missing_attribute_is_a_failure(install, find):
    """A renamed plugin object would crash the program."""
    install("toy-broken", {"toy_broken": GOOD}, {"x": "toy_broken:gone"})
    failure = only_failure(find())
    assert failure.stage == "load"
    assert "gone" in failure.error


def test_a_malformed_entry_point_is_a_failure(install, find):
    """importlib.metadata answers a malformed value with an error about None."""
    install("toy-broken", {}, {"x": "not a module!"})
    assert "neither 'module' nor 'module:attribute'" in only_failure(find()).error


def test_an_unreadable_entry_point_file_is_one_distributions_failure(install, find):
    """A line without `=` in any distribution's file would hide every plugin there is."""
    install("toy-broken", {}, "this line has no equals sign")
    install("toy-good", {"toy_good": GOOD}, {"a": "toy_good"})
    found = find()
    assert identities(found.plugins) == ["toy-good:a"]
    assert identities(found.failures) == ["toy-broken:entry_points.txt"]


def test_a_misspelt_hook_names_the_nearest_one_and_leaves_nothing_behind(install, find):
    """pluggy accepts misspelt hooks, and the plugin would silently do nothing."""
    source = GOOD + "@hookimpl\ndef toy_register_sorces():\n    return []\n"
    install("toy-broken", {"toy_broken": source}, {"x": "toy_broken"})
    install("toy-good", {"toy_good": GOOD}, {"a": "toy_good"})
    found = find()
    failure = only_failure(found)
    assert failure.stage == "register"
    assert failure.error == "unknown hook 'toy_register_sorces'. Did you mean 'toy_register_sources'?"
    assert not hasattr(found.manager.hook, "toy_register_sorces")
    assert not found.manager.has_plugin("toy-broken:x")
    assert len(found.manager.hook.toy_register_sources.get_hookimpls()) == 1
    found.manager.check_pending()


def test_an_optional_hook_of_another_version_is_no_mistake(install, find):
    """A plugin could not support two versions of a project at once."""
    source = GOOD + "@hookimpl(optionalhook=True)\ndef toy_register_futures():\n    return []\n"
    install("toy-good", {"toy_good": source}, {"a": "toy_good"})
    assert identities(find().plugins) == ["toy-good:a"]


def test_a_hook_parameter_with_a_default_is_a_failure(install, find):
    """pluggy never fills it: the plugin would always run with its default and nobody would know why."""
    source = "@hookimpl\ndef toy_run_started(run=None):\n    pass\n"
    install("toy-broken", {"toy_broken": source}, {"x": "toy_broken"})
    failure = only_failure(find())
    assert failure.stage == "register"
    assert "'run' has a default" in failure.error


def test_a_hook_parameter_that_the_hook_does_not_have_is_a_failure(install, find):
    """pluggy raises at registration, half-way; the rest of the plugin would stay registered."""
    source = GOOD + "@hookimpl\ndef toy_run_started(run, walk):\n    pass\n"
    install("toy-broken", {"toy_broken": source}, {"x": "toy_broken"})
    found = find()
    failure = only_failure(found)
    assert failure.stage == "register"
    assert "walk" in failure.error
    assert found.manager.hook.toy_register_sources.get_hookimpls() == []


@pytest.mark.parametrize("value", ["toy_broken", "toy_broken:nothing", "toy_broken:number"])
def test_a_plugin_that_offers_no_hook_is_a_failure(install, find, value):
    """Forgetting the marker would make a plugin that is listed as working and does nothing."""
    install("toy-broken", {"toy_broken": "nothing = None\nnumber = 3\ndef toy_register_sources(): ..."}, {"x": value})
    error = only_failure(find()).error
    assert "offers no hook" in error
    assert ("toy_register_sources lacks the decorator @hookimpl" in error) == (value == "toy_broken")


def test_a_plugin_that_would_end_the_process_is_not_imported(install, find):
    """One plugin that calls os._exit would end every command, with whatever exit code it likes."""
    install("toy-broken", {"toy_broken": "import os\nos._exit(0)\n"}, {"x": "toy_broken"})
    install("toy-good", {"toy_good": GOOD}, {"a": "toy_good"})
    asked = []

    def harmful(sources):
        asked.extend(source.identity for source in sources)
        return {"toy-broken:x": "it ends the process"}

    found = find(harmful=harmful)
    assert asked == ["toy-broken:x", "toy-good:a"]
    assert identities(found.plugins) == ["toy-good:a"]
    failure = only_failure(found)
    assert (failure.stage, failure.error) == ("load", "it ends the process")


def test_what_a_plugin_prints_goes_to_standard_error(install, find, capsys):
    """A print() that was left in a plugin would stand in the middle of JSON."""
    install("toy-good", {"toy_good": "print('noise')\n" + GOOD}, {"a": "toy_good"})
    find()
    assert capsys.readouterr() == ("", "noise\n")


def test_two_distributions_may_use_one_entry_point_name(install, find):
    """pluggy's loader drops the second one without a word."""
    install("toy-one", {"toy_one": GOOD}, {"same": "toy_one"})
    install("toy-two", {"toy_two": GOOD}, {"same": "toy_two"})
    assert identities(find().plugins) == ["toy-one:same", "toy-two:same"]


def test_the_first_of_two_versions_on_the_path_hides_the_other(install, find):
    """A plugin would be loaded from an installation that imports no longer see."""
    install("toy-one", {"toy_old": GOOD}, {"old": "toy_old"}, version="1.0", where="old")
    install("toy-one", {"toy_new": GOOD}, {"new": "toy_new"}, version="2.0", where="new")
    assert identities(find().plugins) == ["toy-one:new"]


def test_an_imported_hook_implementation_is_the_importers_failure(install, find):
    """The function would be called twice and every component it offers would clash with itself."""
    install("toy-one", {"toy_one": GOOD}, {"a": "toy_one"})
    source = "from toy_one import toy_register_sources\n@hookimpl\ndef toy_register_losses():\n    return []\n"
    install("toy-two", {"toy_two": source}, {"b": "toy_two"})
    found = find()
    assert identities(found.plugins) == ["toy-one:a"]
    failure = only_failure(found)
    assert (failure.identity, failure.stage) == ("toy-two:b", "register")
    assert "imported another plugin's hook implementation" in failure.error
    assert "toy-one:a" in failure.error
    assert found.manager.hook.toy_register_losses.get_hookimpls() == []


def test_importing_the_hook_of_a_disabled_plugin_does_not_bring_it_back(install, find):
    """Disabling a plugin would have no effect as long as another one imports from it."""
    install("toy-one", {"toy_one": GOOD}, {"a": "toy_one"})
    install("toy-two", {"toy_two": "from toy_one import toy_register_sources\n"}, {"b": "toy_two"})
    found = find(TOY_DISABLE_PLUGINS="toy-one")
    assert found.plugins == ()
    assert "toy-one:a" in only_failure(found).error


def test_a_hook_kept_in_a_private_module_of_the_same_plugin_is_fine(install, find):
    """A plugin that splits itself into modules would be turned down."""
    modules = {"_toy_inner": GOOD, "toy_outer": "from _toy_inner import toy_register_sources\n"}
    install("toy-one", modules, {"a": "toy_outer"})
    assert identities(find().plugins) == ["toy-one:a"]


def test_two_entry_points_to_one_object_are_one_plugin_and_one_failure(install, find):
    """pluggy's own message for this prints all plugin objects of the program."""
    install("toy-one", {"toy_one": GOOD}, {"a": "toy_one", "b": "toy_one"})
    found = find()
    assert identities(found.plugins) == ["toy-one:a"]
    assert "same object as toy-one:a" in only_failure(found).error


@pytest.mark.parametrize("word", ["toy-one.x:a", "Toy_One-X:a", "a", "toy-one.x", "TOY_ONE_X"])
def test_a_plugin_is_disabled_by_identity_name_or_distribution_and_not_imported(install, find, word):
    """The documented way out of a broken plugin would not work, or would still run its code."""
    install("toy-one.x", {"toy_one": "raise SystemExit"}, {"a": "toy_one"})
    install("toy-two", {"toy_two": GOOD}, {"b": "toy_two"})
    found = find(TOY_DISABLE_PLUGINS=f" {word} ,")
    assert identities(found.disabled) == ["toy-one.x:a"]
    assert identities(found.plugins) == ["toy-two:b"]
    assert found.failures == ()
    assert "toy_one" not in sys.modules


def test_words_of_the_disable_list_that_match_nothing_are_kept(install, find):
    """A misspelt entry would leave the plugin running and the user in the belief that it is off."""
    install("toy-one", {"toy_one": GOOD}, {"a": "toy_one"})
    found = find(TOY_DISABLE_PLUGINS="toy-oen,A,toy-one:b")
    assert found.unknown_disabled == ("toy-oen", "A", "toy-one:b")
    assert identities(found.plugins) == ["toy-one:a"]


def test_the_environment_adds_modules_and_files(install, find, tmp_path):
    """A plugin could not be tried without packaging it."""
    site = install("toy-one", {"toy_module": GOOD, "toy_file": GOOD}, {})
    (site / "toy_file.py").rename(tmp_path / "toy_file.py")
    found = find(TOY_PLUGINS=f"toy_module, {tmp_path / 'toy_file.py'}")
    assert identities(found.plugins) == ["local:toy_file", "local:toy_module"]
    assert {(plugin.distribution, plugin.version) for plugin in found.plugins} == {("local", "")}


def test_classes_of_a_plugin_file_can_find_their_module(install, find, tmp_path):
    """attrs and pickle look modules up by name; string annotations of a plugin file would not resolve."""
    path = tmp_path / "toy_file.py"
    path.write_text(
        "import pluggy, sys\nclass A: pass\nassert sys.modules[A.__module__].A is A\n"
        "@pluggy.HookimplMarker('toy')\ndef toy_register_sources(): return [A]\n"
    )
    first, second = find(TOY_PLUGINS=str(path)), find(TOY_PLUGINS=str(path))
    assert first.plugins[0].obj.A is second.plugins[0].obj.A


def test_a_plugin_file_does_not_hide_a_library_of_the_same_name(find, tmp_path):
    """A file called json.py would replace the json module for the whole program."""
    import json

    path = tmp_path / "json.py"
    path.write_text("import pluggy\n@pluggy.HookimplMarker('toy')\ndef toy_register_sources(): return []\n")
    assert identities(find(TOY_PLUGINS=str(path)).plugins) == ["local:json"]
    assert sys.modules["json"] is json


def test_broken_extra_plugins_are_failures_and_can_be_disabled(find, tmp_path):
    """Plugins named by the environment would lack the isolation of the installed ones."""
    path = tmp_path / "toy_file.py"
    path.write_text("1 / 0")
    extra = f"{path},toy_no_such_module,{tmp_path / 'gone.py'}"
    found = find(TOY_PLUGINS=extra)
    assert [(failure.identity, failure.error.split(":")[0]) for failure in found.failures] == [
        ("local:gone", "FileNotFoundError"),
        ("local:toy_file", "ZeroDivisionError"),
        ("local:toy_no_such_module", "ModuleNotFoundError"),
    ]
    assert "_toy_local_toy_file" not in sys.modules
    assert find(TOY_PLUGINS=extra, TOY_DISABLE_PLUGINS="local").failures == ()


def test_two_files_of_one_name_are_one_plugin_and_one_failure(find, tmp_path):
    """The second would replace the first in silence."""
    paths = [tmp_path / folder / "toy_file.py" for folder in ("one", "two")]
    for path in paths:
        path.parent.mkdir()
        path.write_text("import pluggy\n@pluggy.HookimplMarker('toy')\ndef toy_register_sources(): return []\n")
    found = find(TOY_PLUGINS=",".join(map(str, paths)))
    assert identities(found.plugins) == ["local:toy_file"]
    assert "same identity" in only_failure(found).error


def test_validation_may_turn_a_plugin_down(install, find):
    """A plugin written for another version of the hooks would be registered all the same."""

    def validate(plugin):
        if plugin.name == "old":
            raise ValueError("written for version 0")

    install("toy-one", {"toy_one": GOOD}, {"old": "toy_one"})
    install("toy-two", {"toy_two": GOOD}, {"new": "toy_two"})
    found = find(validate)
    assert identities(found.plugins) == ["toy-two:new"]
    assert only_failure(found).error == "ValueError: written for version 0"
    assert not found.manager.has_plugin("toy-one:old")
