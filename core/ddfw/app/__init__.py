"""From words to objects to a run: configuration, recipes, composition."""
