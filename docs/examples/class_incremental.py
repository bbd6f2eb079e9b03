"""Class-incremental learning with a small memory: what should be kept of classes that are gone?

Two classes come at a time, and go. Of those that went, a memory keeps nothing, some random real images, or a set that
was distilled from them alone while they were there: after the outer step that their own validation images select, after
the last one, and before the first: real images in a small subspace with the experts' labels. One network goes from task
to task; at each it is trained on the task's real images and the memory, and then tested on all classes seen so far.
Another network learns from the memories of all tasks alone, which says how much they hold.

    python docs/examples/class_incremental.py --npz fashionmnist/fashionmnist_sub_10k_2k.npz --data-root DATA
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from attrs import frozen
from charts import COLOURS, DOTS, in_percent, named, panels
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import ddfw
from ddfw_plugins.datasets.digits import Digits
from ddfw_plugins.datasets.npz import Npz

#: The memories, with what people read of them.
MEMORIES: Mapping[str, str] = {
    "nothing": "nothing",
    "random_floats": "random real, equal floats",
    "random_count": "random real, as many images",
    "start": "low rank, nothing learned",
    "distilled": "distilled, selected step",
    "last": "distilled, last step",
    "everything": "all real images",
}

#: Share of each class's real images by which a task's outer step is selected.
VALIDATION = 0.2


@frozen
class Pictures:
    """Pixels [n, C, H, W] in [0, 1] (learned ones may leave it) and targets [n, M] over the classes of all tasks."""

    pixels: Tensor
    targets: Tensor


@frozen
class Task:
    """Classes that come together.

    Args:
        classes: their numbers among all M.
        train: real images to learn from.
        test: real images to be tested on.
        kept: what each memory keeps when the classes go.
        floats: how many floats that takes.
        learned: the distilled set as it was loaded, with its training space, augmentation and network.
    """

    classes: tuple[int, ...]
    train: Pictures
    test: Pictures
    kept: Mapping[str, Pictures]
    floats: Mapping[str, int]
    learned: Any


def recipe(args: argparse.Namespace, steps: int) -> dict[str, Any]:
    """How a task's set is distilled in so many outer steps, tables as in a configuration file."""
    return {
        "model": {"name": "convnet", "depth": 2, "width": 16},
        "augment": {"name": "dsa", "families": ["crop", "scale"]},
        "param": {"name": "lss", "rank": args.rank, "subspaces": 1, "lr": args.param_lr},
        "traj": {"name": "mtt", "expert_epochs": 2},
        "labels": {"name": "soft", "lr": 0.1},
        "experts": {"count": args.experts, "epochs": 8, "lr": 0.02, "batch_size": 64},
        "window": {"start": 1, "max_start": 3},
        "outer": {"steps": steps, "syn_steps": 15, "step_size": 0.02, "images": "recognised", "ema": 0.9},
        # Pairs of classes are so easy that a selection needs many networks and images to tell two steps apart.
        "eval": {"networks": 2, "epochs": 100, "select_networks": 4, "every": max(1, steps // 3), "baselines": []},
        "executor": {"name": "cpu", "threads": 1},
    }


def data_table(args: argparse.Namespace, classes: Sequence[int] | None = None) -> dict[str, Any]:
    """The table `[data]`: all of the data set, or the classes of a task."""
    table: dict[str, Any] = {"name": "npz", "path": args.npz} if args.npz else {"name": "digits"}
    few = {"per_class": args.per_class, "validation": VALIDATION}
    chosen = {"classes": None if classes is None else list(classes), **few}
    return {**table, **{key: value for key, value in chosen.items() if value is not None}}


def read(table: Mapping[str, Any], args: argparse.Namespace) -> ddfw.Splits:
    """The images that a run with this table sees."""
    options: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in table.items() if key != "name"}
    return (Npz if args.npz else Digits)(**options).splits(args.data_root)


def prepared(classes: tuple[int, ...], total: int, args: argparse.Namespace) -> Task:
    """Distils the classes of a task, which are all that is looked at, and fills the memories."""
    table = data_table(args, classes)
    name = f"classes-{'-'.join(map(str, classes))}"
    made, before = (
        ddfw.distill(
            out=args.runs / folder,
            experts_dir=args.runs / "experts",
            data_root=args.data_root,
            ipc=args.ipc,
            seed=args.seed,
            settings={"data": table, **recipe(args, steps)},
        )
        for folder, steps in ((name, args.steps), (f"{name}-start", 0))
    )
    learned, start, splits = made.load(), before.load(), read(table, args)
    columns = torch.eye(total)[list(classes)]  # [m, M]: class j of the task is class classes[j] of all

    def pictures(split: ddfw.Split) -> Pictures:
        return Pictures(split.images.float() / splits.max_value, columns[split.labels])

    train, floats = pictures(splits.train), learned.card["floats"]["strict"]
    pool = ddfw.RealImages(images=train.pixels, labels=splits.train.labels, num_classes=len(classes))
    per_class = {
        "random_floats": -(-floats // (splits.spec.floats_per_image * len(classes))),  # rounded up: in their favour
        "random_count": len(learned) // len(classes),
    }
    kept = {"nothing": Pictures(train.pixels[:0], train.targets[:0]), "everything": train}
    for key, count in per_class.items():
        rows = pool.pick(count, torch.Generator().manual_seed(args.seed))
        kept[key] = Pictures(train.pixels[rows], train.targets[rows])
    sets = {"start": start, "distilled": learned}
    small = {key: Pictures(s.space.decode(s.images), s.targets @ columns) for key, s in sets.items()}
    last = load_file(made.directory / "steps" / f"step-{args.steps:06d}.safetensors")  # whole, since it is small
    small["last"] = Pictures(last["pixels"], last["targets"] @ columns)
    return Task(
        classes=classes,
        train=train,
        test=pictures(splits.test.read()),
        kept={**kept, **small},
        floats={
            **{key: real.pixels.numel() for key, real in kept.items()},
            **{key: s.card["floats"]["strict"] for key, s in sets.items()},
            "last": floats,
        },
        learned=learned,
    )


def joined(parts: Sequence[Pictures]) -> Pictures:
    """Several sets as one."""
    return Pictures(torch.cat([p.pixels for p in parts]), torch.cat([p.targets for p in parts]))


def fresh(task: Task, seed: int) -> nn.Module:
    """A network of the distilled sets' architecture with an output for every class."""
    model, (c, h, w) = task.learned.model, task.train.pixels.shape[1:]
    module = model.build(ddfw.ImageSpec(channels=c, height=h, width=w, num_classes=task.train.targets.shape[1]))
    theta = model.init(module, torch.Generator().manual_seed(seed))
    nn.utils.vector_to_parameters(theta, module.parameters())
    return module


def encoded(pixels: Tensor, space: Any) -> Tensor:
    """Pixels in a training space."""
    return space.encode(pixels * space.max_value, torch.float32)


def accuracies(order: Sequence[Task], memory: str, seed: int, args: argparse.Namespace) -> list[float]:
    """Test accuracy over all classes seen so far, after each task."""
    first = order[0].learned  # whatever comes later, networks see images in the first task's space
    module, found = fresh(order[0], seed), []
    for number, task in enumerate(order):
        old = joined([past.kept[memory] for past in order[:number]] or [task.kept["nothing"]])
        train(module, task.train, old, first, torch.Generator().manual_seed(1000 * seed + number), args)
        seen = joined([t.test for t in order[: number + 1]])
        classes = torch.tensor([c for t in order[: number + 1] for c in t.classes])
        with torch.no_grad():
            logits = module(encoded(seen.pixels, first.space))[:, classes]
        right = classes[logits.argmax(dim=1)] == seen.targets.argmax(dim=1)
        found.append(float(right.float().mean()))
    return found


def alone(tasks: Sequence[Task], memory: str, seed: int, args: argparse.Namespace) -> float:
    """Test accuracy over all classes of a network that learns from the memories of all tasks and from nothing else."""
    everything, first = joined([task.kept[memory] for task in tasks]), tasks[0].learned
    module, none = fresh(tasks[0], seed), tasks[0].kept["nothing"]
    train(module, everything, none, first, torch.Generator().manual_seed(seed), args)
    test = joined([task.test for task in tasks])
    with torch.no_grad():
        found = module(encoded(test.pixels, first.space)).argmax(dim=1)
    return float((found == test.targets.argmax(dim=1)).float().mean())


def train(
    module: nn.Module, new: Pictures, old: Pictures, first: Any, rng: torch.Generator, args: argparse.Namespace
) -> None:
    """SGD; half of each batch is of the current task, half of the memory, both drawn at random with replacement.

    The draws of the current task's images, and their number, are the same for every memory.
    """
    half = args.batch // 2
    from_new = torch.randint(len(new.pixels), (args.passes, half), generator=rng)
    parts = [(new, from_new)]
    if len(old.pixels):
        parts.append((old, torch.randint(len(old.pixels), (args.passes, half), generator=rng)))
    optimiser = torch.optim.SGD(module.parameters(), lr=args.lr, momentum=0.9, weight_decay=5e-4)
    slower = torch.optim.lr_scheduler.MultiStepLR(optimiser, [args.passes // 2 + 1], gamma=0.1)
    for step in range(args.passes):
        optimiser.zero_grad()
        for pictures, rows in parts:
            images = first.augment(encoded(pictures.pixels[rows[step]], first.space), rng)
            loss = cross_entropy(module(images), pictures.targets[rows[step]]) / len(parts)
            loss.backward()
        optimiser.step()
        slower.step()


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is said afterwards, JSON-able; accuracies are fractions."""
    total = read(data_table(args), args).spec.num_classes
    tasks = [prepared(tuple(range(c, min(c + 2, total))), total, args) for c in range(0, total - total % 2, 2)]
    sys.stderr.write(f"{len(tasks)} sets are distilled\n")
    seeds = list[dict[str, Any]]()
    for seed in range(args.seeds):
        order = [tasks[k] for k in torch.randperm(len(tasks), generator=torch.Generator().manual_seed(seed)).tolist()]
        figures = {memory: accuracies(order, memory, seed, args) for memory in MEMORIES}
        longer = argparse.Namespace(**{**vars(args), "passes": 2 * args.passes})
        left = {memory: alone(order, memory, seed, longer) for memory in MEMORIES if memory != "nothing"}
        classes = [list(task.classes) for task in order]
        seeds.append({"seed": seed, "order": classes, "accuracies": figures, "alone": left})
        sys.stderr.write(f"seed {seed} of {args.seeds}\n")
    memories = {}
    for name, words in MEMORIES.items():
        curves = [entry["accuracies"][name] for entry in seeds]
        memories[name] = {
            "title": words,
            "images": [len(task.kept[name].pixels) for task in tasks],
            "floats": [task.floats[name] for task in tasks],
            "after_task": [spread(column) for column in zip(*curves, strict=True)],
            "average": spread([statistics.fmean(curve) for curve in curves]),
            "alone": None if name == "nothing" else spread([entry["alone"][name] for entry in seeds]),
        }
    averages = {name: [statistics.fmean(entry["accuracies"][name]) for entry in seeds] for name in MEMORIES}
    by_itself = {name: [entry["alone"][name] for entry in seeds] for name in ("start", "last")}

    def minus(name: str, found: Mapping[str, Sequence[float]]) -> dict[str, float]:
        return spread([a - b for a, b in zip(found["last"], found[name], strict=True)])

    return {
        "tasks": [list(task.classes) for task in tasks],
        "n": args.seeds,
        "ipc": args.ipc,
        "distilled": {"steps": args.steps, "selected": [task.learned.step for task in tasks]},
        "training": {"steps": args.passes, "batch": args.batch, "lr": args.lr},
        "memories": memories,
        "last_minus": {name: minus(name, averages) for name in ("random_floats", "random_count", "start")},
        "alone_minus_start": minus("start", by_itself),
        "seeds": seeds,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean and sample standard deviation; 0 for a single value."""
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else 0.0}


def table(found: Mapping[str, Any]) -> str:
    """The figures for people; images and floats are those of one task."""

    def cell(value: Mapping[str, float]) -> str:
        return f"{100 * value['mean']:.1f} ± {100 * value['std']:4.1f}"

    heads = [*(f"task {k}" for k in range(1, len(found["tasks"]) + 1)), "average", "alone"]
    lines = [f"{'memory':<28}{'images':>7}{'floats':>8}" + "".join(f"{head:>13}" for head in heads)]
    for memory in found["memories"].values():
        cells = [cell(value) for value in (*memory["after_task"], memory["average"])]
        cells.append(cell(memory["alone"]) if memory["alone"] else "–")
        lines.append(
            f"{memory['title']:<28}{max(memory['images']):>7,}{max(memory['floats']):>8,}"
            + "".join(f"{c:>13}" for c in cells)
        )
    training, minus, steps = found["training"], found["last_minus"], found["distilled"]
    half, less = training["batch"] // 2, {key: cell(value) for key, value in minus.items()}
    return "\n".join(
        [
            *lines,
            "",
            f"test accuracy % over all classes seen so far, mean ± std over n = {found['n']} seeds (initialisation,",
            "batches, order of tasks); images and floats: what is kept of each task",
            f"training at each task: {training['steps']} steps of SGD, each on {half} images of the task and {half} of "
            "the memory",
            f"distilled: {steps['steps']} outer steps, of which each task's validation images selected step "
            f"{', '.join(map(str, steps['selected']))}",
            f"average, seed by seed: last step minus random real at equal floats {less['random_floats']},",
            f"minus as many images {less['random_count']}, minus nothing learned {less['start']}",
            f"alone: trained on the memories of all tasks and nothing else, {2 * training['steps']} steps; "
            f"last step minus nothing learned {cell(found['alone_minus_start'])}",
        ]
    )


def picture(found: Mapping[str, Any]) -> Figure:
    """A line for each memory: accuracy after each task."""
    figure, (axes,) = panels(760, 400, 1)
    named(
        axes,
        "A memory of classes that are gone",
        "tasks learned, two classes each",
        "test accuracy % over all classes seen so far",
    )
    in_percent(axes.yaxis)
    tasks = list(range(1, len(found["tasks"]) + 1))
    axes.set_xticks(tasks)
    for memory, colour in zip(found["memories"].values(), COLOURS, strict=True):
        means, errors = ([value[key] for value in memory["after_task"]] for key in ("mean", "std"))
        axes.errorbar(tasks, means, errors, label=memory["title"], color=colour, linewidth=2, elinewidth=1, **DOTS)
    handles, titles = axes.get_legend_handles_labels()
    order = sorted(range(len(handles)), key=lambda i: -list(found["memories"].values())[i]["after_task"][-1]["mean"])
    figure.legend(
        [handles[i] for i in order],
        [titles[i] for i in order],
        loc="outside right center",
        frameon=False,
        labelcolor="linecolor",
    )
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the table, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--npz", help="an .npz file below the data root; without it scikit-learn's digits")
    parser.add_argument("--data-root", type=Path, help="where data sets lie")
    parser.add_argument("--runs", type=Path, default=Path("runs/class-incremental"), help="where runs are kept")
    parser.add_argument("--per-class", type=int, help="real images of each class; default all")
    parser.add_argument("--ipc", type=int, default=1, help="budget of a task's set, in images per class")
    parser.add_argument("--rank", type=int, default=8, help="of the distilled images' subspace")
    parser.add_argument("--param-lr", type=float, default=3.0, help="outer learning rate of the images, per image")
    parser.add_argument("--experts", type=int, default=3, help="experts of each task")
    parser.add_argument("--steps", type=int, default=18, help="outer steps of each task")
    parser.add_argument("--seed", type=int, default=0, help="of the distillation and of the random real images")
    parser.add_argument("--seeds", type=int, default=5, help="networks for each memory, each with its order of tasks")
    parser.add_argument("--passes", type=int, default=120, help="steps of SGD at each task")
    parser.add_argument("--batch", type=int, default=64, help="images of a step, half of them from the memory")
    parser.add_argument("--lr", type=float, default=0.02, help="learning rate at each task")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--png", type=Path, help="draw the lines here")
    args = parser.parse_args(argv)
    found = measured(args)
    sys.stdout.write(table(found) + "\n")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.png:
        picture(found).savefig(args.png)


if __name__ == "__main__":
    main()
