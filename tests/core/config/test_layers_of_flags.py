"""`configure` with several layers of settings above a recipe."""

from __future__ import annotations

from ddfw import configure


def test_each_layer_lies_over_the_one_before_it():
    """Broken: what a sweep or a comparison shares would win over what a trial or variant says."""
    layers = [{"outer": {"steps": 5, "syn_steps": 2}, "param": "pixel"}, {"outer": {"steps": 7}}]
    config = configure(None, layers, ["outer.syn_steps=3"]).config
    assert (config.outer.steps, config.outer.syn_steps, config.param.name) == (7, 3, "pixel")


def test_a_layer_that_names_the_recipes_component_keeps_the_options_of_the_layers_below():
    """Broken: merging the layers first, without the recipe, would take the same component for another one."""
    layers = [{"param": {"lr": 7.0}}, {"param": "pixel"}]
    assert configure("digits-ipc1-pixel-mct", layers, ()).config.param.lr == 7.0
    assert (
        configure("digits-ipc1-pixel-mct", [*layers, {"param": {"name": "lss", "rank": 3}}], ()).config.param.lr != 7.0
    )
