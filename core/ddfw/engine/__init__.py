"""The numerics: no names, no paths, no config dicts."""
