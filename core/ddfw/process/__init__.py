"""This process: its place among the ranks of a launch, and its memory allocator."""
