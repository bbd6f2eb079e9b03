"""Words to objects: layers, recipes and files become one configuration of components."""
