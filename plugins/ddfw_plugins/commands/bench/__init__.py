"""`ddfw bench`: ddfw against a plain trajectory-matching loop, on this machine."""
