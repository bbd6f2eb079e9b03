"""The simulated GPU of the conformance checks."""

from __future__ import annotations

import pytest
import torch
from torch.func import grad, vmap

from ddfw.testing._devices import _stand_in


def test_a_tensor_that_gets_another_shape_in_place_has_it():
    """Broken: where PyTorch reshapes in place, as torch 2.11 in a norm's backward pass, later operations do not fit."""
    with _stand_in() as device:
        x = torch.arange(6.0).view(2, 3).to(device)
        y = x.unsqueeze_(1)
        z = x.transpose_(0, 2)
        assert y is x is z
        assert x.shape == (3, 1, 2) and x.device == device
        assert torch.equal((x + x).cpu(), 2 * torch.arange(6.0).view(2, 1, 3).transpose(0, 2))


def test_a_number_of_the_cpu_is_read_and_not_written():
    """Broken: a sum that begins on the CPU passes here and ends a run on a real GPU."""
    with _stand_in() as device:
        there, here = torch.ones(()).to(device), torch.zeros(())
        assert float(there + here) == 1.0
        with pytest.raises(RuntimeError, match="writes what is on the device"):
            here += there
        here.copy_(there)
        there += here
        assert float(there) == 2.0


def test_networks_at_once_have_their_gradients_there():
    """Broken: the norms of networks that are trained together give other gradients, or an error."""

    def loss(weight, x):
        return torch.nn.functional.group_norm(x, 2, weight, weight).square().sum()

    weight, x = torch.rand(3, 4, dtype=torch.float64), torch.rand(3, 2, 4, 5, 5, dtype=torch.float64)
    wanted = vmap(grad(loss))(weight, x)
    with _stand_in() as device:
        found = vmap(grad(loss))(weight.to(device), x.to(device)).cpu()
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
