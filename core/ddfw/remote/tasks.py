"""Work as data: what an executor sends to a process on another machine, and the functions that do it there.

What travels is made of tables, numbers and tensors. A component is its configuration table and is built anew where the
work is done, from the plugins that are installed there. Nothing is pickled here, and no code is sent.

Shapes: n images, m classes, C channels, H rows, W columns.
"""

from __future__ import annotations

import builtins
import importlib.metadata
import json
import pkgutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

import torch
from attrs import asdict, evolve, frozen
from torch import Tensor, nn

from ddfw import errors
from ddfw.config.catalog import as_table, catalog, from_table
from ddfw.contracts.dataset import ImageSpec
from ddfw.contracts.executor import AbstractExecutor, ExecutorContext, LabelledImages, TrainedExpert, ask_classes
from ddfw.contracts.matching import AbstractMatchingLoss
from ddfw.contracts.settings import GradientSettings, TrainingSettings
from ddfw.engine.inner import Network, build_module
from ddfw.engine.machine import sharing_processors
from ddfw.errors import ConfigError, ConfigProblem, DdfwError, OptionError, RegistryError
from ddfw.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddfw.contracts.executor import ExecutorSession
    from ddfw.contracts.trajectory import Segment

_TITLES = {kind.id: kind.title for kind in KINDS}


def packed(kind: str, component: Any) -> dict[str, Any]:
    """A component as a JSON-able table from which `unpacked` builds an equal one in another process.

    A class that an installed plugin offers goes by its name, any other by the place that it can be imported from.

    Args:
        kind: the kind's id (`model`).
        component: an instance.

    Raises:
        OptionError: its class, or one of its options, exists in this process alone.
    """
    cls = type(component)
    title = f"{_TITLES[kind]} {getattr(cls, 'name', cls.__name__)!r}"
    place = ""
    if not any(entry.cls is cls for entry in catalog().entries(kind)):
        place = f"{cls.__module__}:{cls.__qualname__}"
        if not _importable(cls):
            raise OptionError(
                f"{title} is a class of {cls.__module__} that no installed plugin offers, so it cannot travel to "
                "another process; put it into a plugin or a module, or take executor cpu"
            )
    try:
        found: dict[str, Any] = {"kind": kind, "class": place, "table": as_table(component)}
        if unpacked(found) != component:
            raise ValueError("they come back changed")
    except (RegistryError, TypeError, ValueError) as error:
        raise OptionError(
            f"{title} cannot travel to another process: its options do not fit a configuration file ({error}); "
            "take executor cpu"
        ) from error
    return found


def unpacked(record: Mapping[str, Any]) -> Any:
    """The component that `packed` described.

    Raises:
        ConfigError: no plugin that is installed here offers it, or an option is unknown here.
        ImportError: its module is not here.
    """
    if not record["class"]:
        return from_table(record["table"], catalog().base(record["kind"]))
    return from_table(record["table"], pkgutil.resolve_name(record["class"]))


def _importable(cls: type) -> bool:
    """Whether another process finds the class under its module's name; never so for a notebook's or a script's."""
    try:
        return cls.__module__ != "__main__" and pkgutil.resolve_name(f"{cls.__module__}:{cls.__qualname__}") is cls
    except (ImportError, AttributeError, ValueError):  # a class of a function has no name that could be looked up
        return False


def pack_job(context: ExecutorContext, executor: AbstractExecutor, threads: int) -> dict[str, Any]:
    """All that another process has to know of a session, the images excepted; JSON-able.

    The loss stays here, since neither experts nor evaluations need it.

    Args:
        context: of the session.
        executor: what trains and evaluates there.
        threads: PyTorch's, there.

    Raises:
        OptionError: a component cannot travel.
    """
    return {
        "ddfw": importlib.metadata.version("ddfw"),
        "model": packed("model", context.model),
        "augment": packed("augment", context.augmentation),
        "executor": packed("executor", executor),
        "threads": threads,
    }


def pack_settings(settings: TrainingSettings) -> dict[str, Any]:
    """Training settings as a table."""
    return as_table(settings)


def image_spec(module: nn.Module, images: Tensor) -> ImageSpec:
    """What a network was built for, by its answer to two of the images [n, C, H, W].

    Args:
        module: the network.
        images: of any dtype that it takes.
    """
    network, two = Network(module), images[:1].expand(2, *images.shape[1:])
    with torch.no_grad():
        logits = network.logits(images.new_zeros(network.num_parameters), two)
    channels, height, width = images.shape[1:]
    return ImageSpec(channels=channels, height=height, width=width, num_classes=logits.shape[1])


@frozen(kw_only=True)
class TaskData:
    """The tensors of one piece of work, and what the network was built for.

    Args:
        train: what is trained on.
        test: the images on which accuracy is measured.
        spec: `image_spec` of the network.
    """

    train: LabelledImages
    test: LabelledImages
    spec: ImageSpec


def remote_expert(
    job: Mapping[str, Any], settings: Mapping[str, Any], given: TaskData, seed: int, on_epoch: Callable[[int], None]
) -> dict[str, Any]:
    """Trains one expert in this process, as `remote_experts` trains several."""
    (found,) = remote_experts(job, settings, given, [seed], lambda position, epoch: on_epoch(epoch))
    return found


def remote_experts(
    job: Mapping[str, Any],
    settings: Mapping[str, Any],
    given: TaskData,
    seeds: Sequence[int],
    on_epoch: Callable[[int, int], None],
) -> list[dict[str, Any]]:
    """Trains experts in this process.

    Args:
        job: by `pack_job`.
        settings: by `pack_settings`.
        given: the training and the validation split, on the CPU.
        seeds: the experts'.
        on_epoch: told the position of a seed and the number of epochs that its expert has done.

    Returns:
        For each `seed`, `snapshots` [K + 1, P] on the CPU, `validation_accuracy` and `train_loss`, for `expert_from`.

    Raises:
        DivergedError: one diverged.
        OptionError: this process cannot build what the job describes.
    """
    with _session(job, given) as session:
        train, test = (_there(data, session) for data in (given.train, given.test))
        how = from_table(settings, TrainingSettings)
        return [
            {**asdict(expert, recurse=False), "snapshots": expert.snapshots.detach().cpu().contiguous()}
            for expert in session.train_experts(how, train, test, seeds, on_epoch)
        ]


def expert_from(record: Mapping[str, Any]) -> TrainedExpert:
    """The expert that `remote_expert` gave."""
    return TrainedExpert(**record)


def remote_evaluation(
    job: Mapping[str, Any],
    settings: Mapping[str, Any],
    given: TaskData,
    seed: int,
    number: int,
    purpose: Literal["select", "eval"],
) -> dict[str, Any]:
    """One fresh network, trained in this process, as `remote_evaluations` trains several."""
    (found,) = remote_evaluations(job, settings, given, seed, range(number, number + 1), purpose)
    return found


def remote_evaluations(
    job: Mapping[str, Any],
    settings: Mapping[str, Any],
    given: TaskData,
    seed: int,
    networks: range,
    purpose: Literal["select", "eval"],
) -> list[dict[str, Any]]:
    """Fresh networks, trained in this process.

    Args:
        job: by `pack_job`.
        settings: by `pack_settings`.
        given: the training and the test images, on the CPU.
        seed: of all fresh networks.
        networks: which of them.
        purpose: likewise.

    Returns:
        For each `accuracy`, a fraction, and `predicted`, the class [n] of each test image on the CPU, or None where
        the executor does not say.

    Raises:
        DivergedError: it diverged.
        OptionError: this process cannot build what the job describes.
    """
    with _session(job, given) as session:
        train, test = (_there(data, session) for data in (given.train, given.test))
        how = from_table(settings, TrainingSettings)
        found = ask_classes(session, how, train, test, seed, networks, purpose, lambda done: None)
    classes = [None] * len(networks) if found.predicted is None else found.predicted.cpu().unbind()
    return [{"accuracy": a, "predicted": p} for a, p in zip(found.accuracies, classes, strict=True)]


def call(task: str, payload: str, threads: int) -> str:
    """Calls `module:function` with a payload in JSON and gives its result in JSON, on so many threads and cores.

    Others run beside it: if each took all cores, a sweep would start as many workers in each of its trials.
    """
    with _threads(threads), sharing_processors(threads):
        return json.dumps(pkgutil.resolve_name(task)(json.loads(payload)))


@contextmanager
def _session(job: Mapping[str, Any], given: TaskData) -> Iterator[ExecutorSession]:
    here = importlib.metadata.version("ddfw")
    if here != job["ddfw"]:
        raise OptionError(f"a worker has ddfw {here}, the run {job['ddfw']}; install the same version everywhere")
    try:
        model, augmentation, executor = (unpacked(job[kind]) for kind in ("model", "augment", "executor"))
    except (RegistryError, ImportError, AttributeError) as error:
        raise OptionError(f"a worker cannot build a component ({error}); install the same plugins there") from error
    context = ExecutorContext(
        model=model,
        module=build_module(model, given.spec),
        augmentation=augmentation,
        loss=_NoLoss(),
        gradient=GradientSettings(),
        dtype=given.train.images.dtype,
    )
    with _threads(job["threads"]), executor.open(context) as session:
        yield session


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _there(data: LabelledImages, session: ExecutorSession) -> LabelledImages:
    return evolve(data, images=data.images.to(session.device), targets=data.targets.to(session.device))


@frozen(kw_only=True)
class _NoLoss(AbstractMatchingLoss):
    """Stands where no segment is matched."""

    name = "not here"

    def loss(self, path: Sequence[Tensor], segment: Segment) -> Tensor:
        """Refuses."""
        raise OptionError("meta-gradients are computed where the run was started")


def error_record(error: Exception) -> dict[str, Any]:
    """An error as JSON-able data, for `error_from` in the process that asked for the work."""

    def plain(value: object) -> bool:
        return isinstance(value, str | int | float | None)

    args = error.__reduce__()[1]  # unlike `error.args`, these hold the filename of an OSError
    return {
        "class": type(error).__name__,
        "message": str(error),
        "args": list(args) if all(map(plain, args)) else [str(error)],
        "attributes": {name: value for name, value in vars(error).items() if plain(value)},
        "problems": [[p.path, p.message] for p in error.problems] if isinstance(error, ConfigError) else [],
        "trace": "".join(traceback.format_exception(error)),
    }


def error_from(record: Mapping[str, Any]) -> Exception:
    """The error again: ddfw's and Python's own of the same class, any other as a DdfwError.

    The other process's traceback is a note on it, which `str` leaves out.
    """
    error = _error_from(record)
    error.add_note(f"In the process that did the work:\n{record['trace']}")
    return error


def _error_from(record: Mapping[str, Any]) -> Exception:
    if record["problems"]:
        return ConfigError(tuple(ConfigProblem(path=path, message=text) for path, text in record["problems"]))
    cls = getattr(errors, record["class"], getattr(builtins, record["class"], None))
    if isinstance(cls, type) and issubclass(cls, Exception):
        with suppress(TypeError):  # of an error that is made of other things than texts and numbers
            error = cls(*record["args"])
            vars(error).update(record["attributes"])
            return error
    return DdfwError(f"{record['class']}: {record['message']}")
