"""What a run leaves for readers: card, summary, manifest, tables."""
