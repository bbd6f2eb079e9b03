"""The abstract base class of each kind of component, one kind per module; importing them does not import torch."""
