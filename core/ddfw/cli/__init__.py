"""The command line: one command, one module; nothing here computes."""
