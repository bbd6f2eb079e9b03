"""`npz`: what people who have only NumPy need is in it."""

from __future__ import annotations

import numpy as np


def test_an_npz_is_complete_for_people_who_have_only_numpy(exported, learned):
    """Broken: without ddfw nobody could use it."""
    with np.load(exported / "npz" / "set.npz", allow_pickle=False) as archive:
        assert np.array_equal(archive["images"], learned.images.numpy())
        assert np.array_equal(archive["targets"], learned.targets.numpy())
        assert np.array_equal(archive["labels"], learned.targets.numpy().argmax(axis=1))
        assert float(archive["step_size"]) == learned.step_size
        assert archive["class_names"].tolist() == list(learned.class_names)
        space = learned.card["training_space"]
        pixels = archive["images"].astype(np.float64) * space["std"][0] + space["mean"][0]
        np.testing.assert_allclose(archive["pixels"], pixels, atol=1e-6)
