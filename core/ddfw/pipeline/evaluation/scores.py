"""DD-Ranking's scores of a set, with the accuracies that they are made of."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve

from ddfw.contracts.augmentation import IdentityAugmentation
from ddfw.contracts.executor import LabelledImages
from ddfw.engine import ranking
from ddfw.pipeline.evaluation.baselines import BASELINES, Subject, full_data, real_baselines, size_of
from ddfw.pipeline.evaluation.evaluator import Evaluator


def score(
    evaluator: Evaluator,
    subject: Subject,
    train: LabelledImages,
    validation: LabelledImages,
    *,
    own_budget: bool = True,
) -> dict[str, float]:
    """DD-Ranking's scores of a set, all in fractions, with the accuracies that they are made of.

    `random` stands for random real images with hard labels, once at equal stored floats and once in equal number, with
    the best learning rate of `eval.baseline_lrs`; so for a set with soft labels the improvement over random (IOR)
    credits the labels too. `plain` stands for networks trained without augmentation. The test split must have been read
    before.

    Args:
        evaluator: trains the networks.
        subject: the set.
        train: the training split in training space.
        validation: the validation split in training space, by which learning rates are chosen.
        own_budget: whether the set was made for the configuration's budget; if not, random images may store as many
            floats as the set does.

    Returns:
        `hlr`, `ior_…`, `lrs_…`, `ars_…`, and the accuracies that they come from as `accuracy_…`.
    """
    setup = evaluator.setup
    test = setup.encode(setup.splits.test.last_read, evaluator.session.device)
    size = size_of(setup, subject, own_budget=own_budget)
    targets = subject.data.targets
    classes = targets.argmax(dim=1) if targets.ndim == 2 else targets
    hard = evolve(subject, data=evolve(subject.data, targets=classes))
    asked = [BASELINES[name] for name in ("random_real", "random_real_count")]
    randoms = dict(zip(("floats", "count"), real_baselines(setup, asked, train, None, size), strict=True))

    def mean(of: Evaluator, what: Subject) -> float:
        return of.test(what, test).mean

    found = {"full": mean(evaluator, full_data(setup, train)), "distilled": mean(evaluator, subject)}
    # The step size was learned for the set's own labels.
    rates = sorted({subject.lr, *evaluator.settings.baseline_lrs})
    settings = evolve(evaluator.settings, baseline_lrs=tuple(rates))
    free = evolve(evaluator, setup=setup.with_config(evolve(setup.config, eval=settings)))
    found["distilled_hard"] = mean(evaluator, free.with_best_lr(hard, validation))
    bare = evolve(setup.context(), augmentation=IdentityAugmentation())
    with setup.config.executor.open(bare) as session:
        plain = evolve(evaluator, session=session)
        found["distilled_plain"] = mean(plain, subject)
        for key, random in randoms.items():
            found[f"random_{key}"] = mean(evaluator, evaluator.with_best_lr(random, validation))
            found[f"random_{key}_plain"] = mean(plain, plain.with_best_lr(random, validation))
    return {**_scores_of(found), **{f"accuracy_{key}": value for key, value in found.items()}}


def _scores_of(found: Mapping[str, float]) -> dict[str, float]:
    """DD-Ranking's scores from accuracies, at equal floats and in equal number."""
    hlr = ranking.hard_label_recovery(found["full"], found["distilled_hard"])
    scores = {"hlr": hlr}
    for key in ("floats", "count"):
        gain = ranking.improvement_over_random(found["distilled"], found[f"random_{key}"])
        without = ranking.improvement_over_random(found["distilled_plain"], found[f"random_{key}_plain"])
        scores[f"ior_{key}"] = gain
        scores[f"lrs_{key}"] = ranking.label_robust_score(gain, hlr)
        scores[f"ars_{key}"] = ranking.augmentation_robust_score(gain, without)
    return scores
