"""Conformance checks for the tests of plugin authors: one call checks one component.

    from ddfw.testing import check_param

    def test_my_parameterisation_keeps_the_contract():
        check_param(MyParam(rank=4))

There is one check for each of the nine kinds of components. A check builds its own tiny images, experts and networks,
needs no GPU and no network access, takes seconds at most, and leaves global state unchanged. It raises a
`ConformanceError` that names the component and says what is wrong and what to do. Call it once for every set of options
that makes the component run other code.
"""

from __future__ import annotations

from ddfw.testing._augment import check_augment
from ddfw.testing._common import ConformanceError
from ddfw.testing._data import check_data
from ddfw.testing._executor import check_executor
from ddfw.testing._labels import check_labels
from ddfw.testing._loss import check_loss
from ddfw.testing._model import check_model
from ddfw.testing._observer import check_observer
from ddfw.testing._param import check_param
from ddfw.testing._traj import check_traj

__all__ = [
    "ConformanceError",
    "check_augment",
    "check_data",
    "check_executor",
    "check_labels",
    "check_loss",
    "check_model",
    "check_observer",
    "check_param",
    "check_traj",
]
