"""Fresh networks are trained on a set and tested: the learned one, and what it is compared with."""
