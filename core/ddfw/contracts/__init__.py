"""What a component of each kind has to offer: one kind, one module, no torch at import."""
