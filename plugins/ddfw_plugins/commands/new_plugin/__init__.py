"""`ddfw new-plugin`: a small complete package around one component, to start from."""
