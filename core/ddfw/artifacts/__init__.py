"""Files: written whole or not at all, read only after their hash was checked; safetensors and JSON, never pickle."""
