"""`ddfw compare`: several ways to distil at equal cost, over run seeds."""
