"""The built-in plugins of ddfw, each registered through its own entry point, as anyone's would be."""
