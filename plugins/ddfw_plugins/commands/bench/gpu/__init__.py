"""`ddfw bench --preset gpu`: every open question about the executor `cuda`, the most valuable first."""
