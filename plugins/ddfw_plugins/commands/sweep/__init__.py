"""`ddfw sweep`: values of any settings, each combination an ordinary run."""
