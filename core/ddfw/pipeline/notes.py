"""What has to be said before a run starts: settings that were cut, classes that were matched, splits that are small.

`ddfw run` and `--dry-run` say the same.
"""

from __future__ import annotations

import math

from ddfw.pipeline.adopt import matching_notes
from ddfw.pipeline.prepare import Plan
from ddfw.pipeline.sets import read_images

#: Splits with fewer images are called small: their accuracies have a standard error of more than five points.
SMALL_SPLIT = 100


def notes(plan: Plan) -> tuple[str, ...]:
    """One line for each thing about a run that a user may not expect; nothing of it refuses the run."""
    config, images = plan.config, plan.layout.num_images
    found = list(config.traj.notes(plan.expert_set.epochs, config.window.max_start))
    if config.outer.batch_syn > images:
        found.append(
            f"outer.batch_syn is {config.outer.batch_syn}, the set has {images} images: a step takes all of them"
        )
    splits = {"validation": len(plan.splits.validation.labels), "test": len(plan.splits.test)}
    ways = {"validation": "raise data.validation", "test": "test on more images"}
    found += [f"data: {note}" for note in plan.splits.notes]
    found += [f"outer.init_from: {note}" for note in _start_notes(plan)]
    return *found, *(f"{small_split(name, n)}; {ways[name]}" for name, n in splits.items() if n < SMALL_SPLIT)


def _start_notes(plan: Plan) -> tuple[str, ...]:
    """How the classes of the set that a run starts from were matched, and what its reader remarked."""
    start = plan.config.outer.init_from
    if not start:
        return ()
    found = read_images(start)
    how = "its classes have the names and the order of the data set's"
    if found.class_names is None:
        how = f"it names no classes: its class 0 is {plan.splits.class_names[0]}, and so on"
    return *found.notes, *(matching_notes(plan, found) or (how,))


def small_split(name: str, images: int) -> str:
    """What an accuracy on a split of so few images is worth, in words.

    Args:
        name: the split's name.
        images: its number of images.
    """
    error = 100 * math.sqrt(0.25 / images)
    count = f"{images} {'image' if images == 1 else 'images'}"
    return (
        f"the {name} split has {count}: one image is {100 / images:.1f} points, and an accuracy near 50 % has a "
        f"standard error of {error:.1f} points (binomial)"
    )
