"""Objects to a finished run: preparation, experts, the outer loop, evaluation, files."""
