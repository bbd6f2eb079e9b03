"""Carries out a run: preparation, experts, the outer loop, evaluation, files."""
