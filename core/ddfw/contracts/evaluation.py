"""Several sets evaluated side by side: an ability that an executor's session may have beside those of its contract."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol

from attrs import frozen

from ddfw.contracts.executor import Evaluated, ask_classes
from ddfw.errors import DivergedError

if TYPE_CHECKING:
    from ddfw.contracts.executor import ExecutorSession, LabelledImages
    from ddfw.contracts.settings import TrainingSettings


@frozen(kw_only=True, eq=False)
class EvaluationTask:
    """One of several sets that are evaluated independently of each other.

    Args:
        settings: epochs, learning rate and the other settings of SGD.
        train: the images to train on.
        test: the images on which accuracy is measured.
        networks: the numbers of the fresh networks to train.
        purpose: `select` or `eval`, as for `ExecutorSession.evaluate`.
        classes: whether the predicted classes are wanted, too.
    """

    settings: TrainingSettings
    train: LabelledImages
    test: LabelledImages
    networks: range
    purpose: Literal["select", "eval"]
    classes: bool = False


class EvaluatesSets(Protocol):
    """A session that evaluates several sets side by side; one that does not is given one after another."""

    def evaluate_sets(
        self, tasks: Sequence[EvaluationTask], seed: int, on_network: Callable[[int, int], None]
    ) -> Iterator[tuple[int, Evaluated | DivergedError]]:
        """Evaluates sets, and yields each one's position and result as soon as it is there, in any order.

        Args:
            tasks: the sets.
            seed: the option `eval.seed`.
            on_network: called after each network with its set's position and how many of that set's are finished.
        """


def ask_sets(
    session: ExecutorSession, tasks: Sequence[EvaluationTask], seed: int, on_network: Callable[[int, int], None]
) -> Iterator[tuple[int, Evaluated | DivergedError]]:
    """`session.evaluate_sets`, also of a session that does not have this method: then one set after another."""
    able: EvaluatesSets | None = session if hasattr(session, "evaluate_sets") else None  # type: ignore[assignment]
    if able is None:
        return one_after_another(session, tasks, seed, on_network)
    return able.evaluate_sets(tasks, seed, on_network)


def one_after_another(
    session: ExecutorSession, tasks: Sequence[EvaluationTask], seed: int, on_network: Callable[[int, int], None]
) -> Iterator[tuple[int, Evaluated | DivergedError]]:
    """Evaluates each set by itself; arguments and results are those of `EvaluatesSets.evaluate_sets`."""
    for position, task in enumerate(tasks):
        arguments = (task.settings, task.train, task.test, seed, task.networks, task.purpose)
        told = partial(on_network, position)
        try:
            if task.classes:
                yield position, ask_classes(session, *arguments, told)
            else:
                yield position, Evaluated(accuracies=session.evaluate(*arguments, told))
        except DivergedError as error:
            yield position, error
