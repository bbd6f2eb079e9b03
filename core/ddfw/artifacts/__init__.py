"""The files of a run: written atomically, read after their hash was checked; safetensors and JSON, never pickle."""
