"""`ddfw gradient`: how far an approximate meta-gradient is from the exact one."""
