"""Benchmarks: ratios of ddfw to a plain trajectory-matching loop on the same work, in one process, side by side."""
