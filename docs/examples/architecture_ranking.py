"""Does a distilled set rank networks as the real data do?

Every network is trained on the set of a finished run, on random real images of equal stored floats, and on all real
training images; all are judged on the test split. The ranks of the first two are compared with those of the third.

    python docs/examples/architecture_ranking.py RUN --data-root DATA --json ranking.json --png ranking.png
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from charts import COLOURS, DOTS, GREY, in_percent, named, panels
from matplotlib.figure import Figure
from scipy.stats import rankdata, spearmanr

import ddfw

#: What is ranked: small networks that differ in everything that a search would vary.
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "convnet 3×16": {"name": "convnet", "depth": 3, "width": 16},
    "convnet 3×8": {"name": "convnet", "depth": 3, "width": 8},
    "convnet 2×16": {"name": "convnet", "depth": 2, "width": 16},
    "convnet 2×8": {"name": "convnet", "depth": 2, "width": 8},
    "convnet 1×8": {"name": "convnet", "depth": 1, "width": 8},
    "convnet 3×8 max": {"name": "convnet", "depth": 3, "width": 8, "pooling": "max"},
    "convnet 3×8 batch": {"name": "convnet", "depth": 3, "width": 8, "norm": "batch"},
    "convnet 3×8 group": {"name": "convnet", "depth": 3, "width": 8, "norm": "group"},
    "convnet 3×8 no norm": {"name": "convnet", "depth": 3, "width": 8, "norm": "none"},
    "convnet 3×8 sigmoid": {"name": "convnet", "depth": 3, "width": 8, "activation": "sigmoid"},
    "mlp 1×128": {"name": "mlp", "depth": 1, "width": 128},
    "mlp 3×64": {"name": "mlp", "depth": 3, "width": 64},
    "alexnet 8": {"name": "alexnet", "width": 8},
}


def judged(subject: str, network: str, args: argparse.Namespace, seed: int | None = None) -> dict[str, Any]:
    """Figures of one network: `subject` is the run itself, `random_real` or `full_data`."""
    flags: dict[str, Any] = {"model": NETWORKS[network], "eval": {"networks": args.networks}}
    if seed is not None:
        flags["run"] = {"seed": seed}  # chooses the random images; the networks' own seed is eval.seed
    like = None if subject == args.run else args.run
    said = [*args.set, *(args.set_real if subject == "full_data" else ())]
    found = ddfw.evaluate(subject, like=like, flags=flags, assignments=said, data_root=args.data_root, quiet=True)
    return {"run_seed": seed, **found.record()}


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that is said afterwards, JSON-able; accuracies are fractions."""
    rows = []
    for name in args.only:
        rows.append(
            {
                "network": name,
                "model": dict(NETWORKS[name]),
                "distilled": judged(args.run, name, args),
                "random": [judged("random_real", name, args, seed) for seed in range(args.draws)],
                "real": judged("full_data", name, args),
            }
        )
        sys.stderr.write(f"{len(rows)}/{len(args.only)} {name}\n")
    real, distilled = ([row[key]["mean"] for row in rows] for key in ("real", "distilled"))
    draws = [[row["random"][k]["mean"] for row in rows] for k in range(args.draws)]
    return {
        "networks": len(rows),
        "rows": rows,
        "distilled": compared(distilled, real),
        "random": [compared(draw, real) for draw in draws],
        "resampled": resampled(distilled, draws, real),
    }


def compared(small: Sequence[float], real: Sequence[float]) -> dict[str, float]:
    """How well accuracies on a small set order networks; ties share a rank.

    Returns:
        spearman: Spearman's ρ with the accuracies on the real data.
        spearman_half: the same among the better half of the networks by real data (the larger half of an odd number).
        lost: what the real accuracy of the network that is best by the small set lies below the best one.
    """
    half = sorted(range(len(real)), key=lambda i: -real[i])[: (len(real) + 1) // 2]
    chosen = max(range(len(small)), key=small.__getitem__)
    return {
        "spearman": spearman(small, real),
        "spearman_half": spearman([small[i] for i in half], [real[i] for i in half]),
        "lost": max(real) - real[chosen],
    }


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's ρ; 0 where one of the lists holds a single value, which orders nothing."""
    if min(len(set(one)), len(set(other))) < 2:
        return 0.0
    return float(spearmanr(one, other).statistic)


def resampled(
    distilled: Sequence[float], draws: Sequence[Sequence[float]], real: Sequence[float], times: int = 1000
) -> dict[str, list[float]]:
    """How uncertain ρ is for so few networks: 95 % of its values when the networks are drawn again with replacement.

    Returns:
        distilled, random, difference: the lower and the upper end; random is the mean over the draws of images.
    """
    rng = random.Random(0)
    found: dict[str, list[float]] = {"distilled": [], "random": [], "difference": []}
    for _ in range(times):
        rows = rng.choices(range(len(real)), k=len(real))
        target, *others = ([values[i] for i in rows] for values in (real, distilled, *draws))
        learned, *randoms = (spearman(values, target) for values in others)
        by_random = statistics.fmean(randoms)
        for key, value in zip(found, (learned, by_random, learned - by_random), strict=True):
            found[key].append(value)
    return {
        key: [sorted(values)[round(share * (times - 1))] for share in (0.025, 0.975)] for key, values in found.items()
    }


def table(found: Mapping[str, Any]) -> str:
    """The figures for people, best real accuracy first, with ranks in brackets."""
    rows = found["rows"]
    columns = {
        "real data": [row["real"]["mean"] for row in rows],
        "distilled": [row["distilled"]["mean"] for row in rows],
        "random real": [random_mean(row) for row in rows],
    }
    ranks = {key: rankdata([-value for value in values]) for key, values in columns.items()}
    lines = ["  # network               " + "".join(f"{key:>20}" for key in columns)]
    for place, i in enumerate(best_first(found), start=1):
        spreads = (rows[i]["real"]["std"], rows[i]["distilled"]["std"], random_std(rows[i]))
        cells = [
            f"{100 * values[i]:5.1f} ± {100 * spread:4.1f} ({ranks[key][i]:>4g})"
            for (key, values), spread in zip(columns.items(), spreads, strict=True)
        ]
        lines.append(f"{place:>3} {rows[i]['network']:<22}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join([*lines, "", *verdict(found)])


def verdict(found: Mapping[str, Any]) -> list[str]:
    """What was measured how, and how well the ranks agree."""
    first, draws = found["rows"][0], found["random"]
    small = {"distilled": first["distilled"], "random real": first["random"][0]}
    sizes = [f"{key}: {row['images']} images, {row['floats']['strict']:,} floats" for key, row in small.items()]
    n, networks = first["real"]["n"], len(found["rows"])
    return [
        f"test accuracy %, (rank); {networks} networks, mean ± std over n = {n} initialisations of each;",
        f"random real: mean ± std over {len(draws)} draws",
        f"{'; '.join(sizes)} (learned labels counted)",
        *(
            f"{words}: distilled {of(found['distilled']):.{digits}f}; random real "
            f"{statistics.fmean(map(of, draws)):.{digits}f} ({', '.join(f'{of(d):.{digits}f}' for d in draws)})"
            for words, digits, of in (
                ("Spearman's ρ with real data", 2, lambda c: c["spearman"]),
                (f"ρ among the better {(networks + 1) // 2}", 2, lambda c: c["spearman_half"]),
                ("points lost by taking the best", 1, lambda c: 100 * c["lost"]),
            )
        ),
        "95 % of ρ when the networks are drawn again with replacement: "
        + "; ".join(f"{key} {low:.2f} to {high:.2f}" for key, (low, high) in found["resampled"].items()),
    ]


def best_first(found: Mapping[str, Any]) -> list[int]:
    """Row numbers by falling accuracy on the real data."""
    return sorted(range(len(found["rows"])), key=lambda i: -found["rows"][i]["real"]["mean"])


def random_mean(row: Mapping[str, Any]) -> float:
    """The mean over the draws of random images."""
    return statistics.fmean(draw["mean"] for draw in row["random"])


def random_std(row: Mapping[str, Any]) -> float:
    """The standard deviation between draws; 0 for a single one."""
    means = [draw["mean"] for draw in row["random"]]
    return statistics.stdev(means) if len(means) > 1 else 0.0


def picture(found: Mapping[str, Any]) -> Figure:
    """Two scatters: accuracy on the real data across, on the small set up; numbers are those of the table."""
    rows = found["rows"]
    real = [row["real"]["mean"] for row in rows]
    ranks = {i: place for place, i in enumerate(best_first(found), start=1)}
    mean = statistics.fmean(draw["spearman"] for draw in found["random"])
    random_title = f"random real images, Spearman {mean:.2f} (mean of {len(found['random'])} draws)"
    figure, (left, right) = panels(820, 400, 2)
    for axes, title, values, colour, ink in (
        (
            left,
            f"distilled set, Spearman {found['distilled']['spearman']:.2f}",
            [row["distilled"]["mean"] for row in rows],
            COLOURS[4],
            "white",
        ),
        (right, random_title, [random_mean(row) for row in rows], COLOURS[1], "black"),
    ):
        named(
            axes,
            title,
            "test accuracy % of networks trained on all real images",
            "test accuracy %, trained on the small set",
        )
        in_percent(axes.xaxis, axes.yaxis)
        axes.plot(real, values, linestyle="", color=colour, markersize=13, **DOTS)
        for i, (x, y) in enumerate(zip(real, values, strict=True)):
            axes.annotate(str(ranks[i]), (x, y), ha="center", va="center", fontsize=7, color=ink)
    for x, row in zip(real, rows, strict=True):
        draws = [draw["mean"] for draw in row["random"]]
        right.plot([x] * len(draws), draws, linestyle="", color=GREY, markersize=4, zorder=1, **DOTS)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, prints the table, and writes what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", metavar="RUN", help="directory of a finished run")
    parser.add_argument("--data-root", type=Path, help="where data sets lie")
    parser.add_argument("--networks", type=int, default=3, help="initialisations of each network (at least 2)")
    parser.add_argument("--draws", type=int, default=3, help="draws of random real images")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting for all trainings")
    parser.add_argument("--set-real", action="append", default=[], metavar="KEY=VALUE", help="… for real data alone")
    parser.add_argument("--only", action="append", choices=NETWORKS, help="a network (may be repeated); default all")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--png", type=Path, help="draw the scatter here")
    args = parser.parse_args(argv)
    args.only = args.only or list(NETWORKS)
    found = measured(args)
    sys.stdout.write(table(found) + "\n")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.png:
        picture(found).savefig(args.png)


if __name__ == "__main__":
    main()
