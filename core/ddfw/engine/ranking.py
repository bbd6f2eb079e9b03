"""DD-Ranking's scores, which tell how much of an accuracy comes from the images and not from labels or augmentation.

Source: Li, Zhong, Khaki and others, "DD-Ranking: Rethinking the Evaluation of Dataset Distillation", 2025,
arXiv 2505.13300. Accuracies are fractions here and percentages are an error; the paper's released package puts
percentages into the exponential, which gives scores outside [0, 1].
"""

from __future__ import annotations

import math


def hard_label_recovery(full: float, synthetic: float) -> float:
    """The accuracy lost by training on synthetic images, with hard labels, instead of all data; low is good.

    The number is called HLR and lies in [−1, 1].

    Args:
        full: accuracy of networks trained on the full data, in [0, 1].
        synthetic: accuracy of networks trained on the synthetic images, in [0, 1].

    Raises:
        ValueError: an accuracy outside [0, 1].
    """
    return _fraction(full) - _fraction(synthetic)


def improvement_over_random(synthetic: float, random: float) -> float:
    """The accuracy gained by training on synthetic images instead of random real ones; high is good.

    The number is called IOR and lies in [−1, 1].

    Args:
        synthetic: accuracy of networks trained on the synthetic images, in [0, 1].
        random: accuracy of networks trained on randomly chosen real images, in [0, 1].

    Raises:
        ValueError: an accuracy outside [0, 1].
    """
    return _fraction(synthetic) - _fraction(random)


def label_robust_score(ior: float, hlr: float, weight: float = 0.5) -> float:
    """One score from the gain over random images and the loss against all data; high is good.

    The number is called LRS and lies in [0, 1]: (e^α − e⁻¹) / (e − e⁻¹) with α = weight · IOR − (1 − weight) · HLR.

    Args:
        ior: improvement over random, in [−1, 1].
        hlr: hard label recovery, in [−1, 1].
        weight: weight of the improvement over random, in [0, 1].

    Raises:
        ValueError: an argument outside its range.
    """
    return _score(_weight(weight) * _difference(ior) - (1 - weight) * _difference(hlr))


def augmentation_robust_score(gain_with: float, gain_without: float, weight: float = 0.5) -> float:
    """One score from the gains over random images with and without augmentation; high is good.

    The number is called ARS and lies in [0, 1]: (e^β − e⁻¹) / (e − e⁻¹) with
    β = weight · gain_with + (1 − weight) · gain_without.

    Args:
        gain_with: improvement over random with augmentation in the evaluation, in [−1, 1].
        gain_without: improvement over random without augmentation in the evaluation, in [−1, 1].
        weight: weight of `gain_with`, in [0, 1].

    Raises:
        ValueError: an argument outside its range.
    """
    return _score(_weight(weight) * _difference(gain_with) + (1 - weight) * _difference(gain_without))


def _score(alpha: float) -> float:
    """Maps α in [−1, 1] to the score (e^α − e⁻¹) / (e − e⁻¹) in [0, 1]."""
    return (math.exp(alpha) - math.exp(-1)) / (math.exp(1) - math.exp(-1))


def _fraction(value: float) -> float:
    return _within(0, value, "accuracies are fractions, got {:g} – divide percents by 100")


def _difference(value: float) -> float:
    return _within(-1, value, "differences of accuracies lie in [−1, 1], got {:g} – divide percents by 100")


def _weight(value: float) -> float:
    return _within(0, value, "weight must lie in [0, 1], got {:g}")


def _within(low: float, value: float, refusal: str) -> float:
    if not low <= value <= 1:
        raise ValueError(refusal.format(value))
    return value
