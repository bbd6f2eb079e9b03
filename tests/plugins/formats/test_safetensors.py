"""`safetensors`: other programs find the tensors under their names."""

from __future__ import annotations

import torch
from safetensors.torch import load_file


def test_the_file_holds_images_and_targets_alone(exported, learned):
    """Broken: whoever reads the file without ddfw would not find them."""
    found = load_file(exported / "safetensors" / "set.safetensors")
    assert set(found) == {"images", "targets"}
    assert torch.equal(found["images"], learned.images) and torch.equal(found["targets"], learned.targets)
