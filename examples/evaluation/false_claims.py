"""Draw how often equally good models are called different: by intervals over images alone, and by the rule in use.

    python examples/evaluation/false_claims.py --figure false_claims.png

Every simulated table holds a plain student and seven others that are equally good, each trained several times. Some
images are hard for every model, some for one method, some for one training run, and runs differ in skill. The old rule
calls a difference "beyond noise" if its interval over the test images excludes 0 and all paired runs have one sign. The
rule in use counts training runs too and corrects for the number of comparisons (mlcak_hf.evaluation.significance). The
deviation over images is DeLong's, as each simulated patient has one image.

With --folds 5, every training run consists of five models of different skill and scale. Each predicts a fifth of the
images, and images are ranked within their fold, as in a study.
"""

from __future__ import annotations

from argparse import ArgumentParser

import numpy as np
from matplotlib.figure import Figure

from mlcak_hf.evaluation.significance import ALPHA, holm, p_value, placement_values

ROWS, RUNS = 8, (1, 3, 5)


def simulate(tables: int, images: int, folds: int = 1, seed: int = 0) -> dict[str, dict[int, tuple[float, float]]]:
    """Share of false claims by rule and number of runs: among all comparisons, and of tables with at least one."""
    rng = np.random.default_rng(seed)
    # Every fold has the same number of images of each class, so that its AUROC counts as much as the others.
    labels, fold = np.repeat([0, 1], images // 2).astype(np.int8), np.arange(images) % folds
    claims = {rule: {runs: np.zeros((tables, ROWS - 1), bool) for runs in RUNS} for rule in ("alone", "old", "new")}
    for table in range(tables):
        skill, offset, scale = 1.2 + 0.1 * rng.normal(size=(folds, ROWS, max(RUNS))), 0.0, 1.0
        if folds > 1:
            offset, scale = rng.normal(size=(2, folds, ROWS, max(RUNS)))
            offset, scale = offset[fold], np.exp(scale[fold])
        hard = rng.normal(size=(images, 1, 1)) + 0.5 * rng.normal(size=(images, ROWS, 1))
        scores = labels[:, None, None] * skill[fold] + hard + 0.3 * rng.normal(size=(images, ROWS, max(RUNS)))
        scores = (offset + scale * scores).reshape(images, -1)
        parts = [
            [part.reshape(-1, ROWS, max(RUNS)) for part in placement_values(scores[fold == each], labels[fold == each])]
            for each in range(folds)
        ]
        for runs in RUNS:
            contrasts = [[part[:, 1:, :runs] - part[:, :1, :runs] for part in of_fold] for of_fold in parts]
            differences = np.mean([of_fold[0].mean(axis=0) for of_fold in contrasts], axis=0)
            errors = [part.mean(axis=2).var(axis=0, ddof=1) / len(part) for of_fold in contrasts for part in of_fold]
            spread = np.sqrt(np.sum(errors, axis=0)) / folds
            mean = differences.mean(axis=1)
            agree = np.abs(np.sign(differences).sum(axis=1)) == runs
            claims["old"][runs][table] = (np.abs(mean) > 1.96 * spread) & agree
            if runs > 1:
                noise = zip(mean, spread, differences.std(axis=1, ddof=1), strict=True)
                p_values = [p_value(float(value), float(of), float(over_runs), runs) for value, of, over_runs in noise]
                claims["alone"][runs][table] = np.array(p_values) <= ALPHA
                claims["new"][runs][table] = holm(p_values) <= ALPHA
    # A single comparison needs no correction; in a table of eight rows there are seven.
    single = {"old": "old", "new": "alone"}
    return {rule: {runs: (float(claims[single[rule]][runs].mean()), float(claims[rule][runs].any(axis=1).mean()))
                   for runs in RUNS} for rule in ("old", "new")}  # fmt: skip


def draw(rates: dict[str, dict[int, tuple[float, float]]], title: str, path: str) -> None:
    """Bars of both rules: single comparisons at the left, tables of eight rows at the right."""
    figure = Figure(figsize=(8, 3.6), layout="constrained", dpi=110)
    for place, heading in enumerate(("Comparisons claimed falsely", "Tables of 8 rows with a false claim")):
        axes = figure.add_subplot(1, 2, place + 1)
        names = {"old": ("intervals over images, signs agree", "#D55E00"), "new": ("rule in use", "#0072B2")}
        for shift, (rule, (label, colour)) in zip((-0.2, 0.2), names.items(), strict=True):
            heights = [100 * rates[rule][runs][place] for runs in RUNS]
            bars = axes.bar(np.arange(len(RUNS)) + shift, heights, 0.38, color=colour, label=label)
            axes.bar_label(bars, fmt="%.1f", fontsize=8)
        axes.axhline(100 * ALPHA, color="#666666", linestyle="--", linewidth=1)
        axes.set_xticks(range(len(RUNS)), [f"{runs} run{'s' * (runs > 1)}" for runs in RUNS])
        axes.set(title=heading, ylabel="%", ylim=(0, 110), yticks=range(0, 101, 20))
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def main() -> None:
    """Simulate, print, draw."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=2858, help="tables of seven comparisons (default: 2858)")
    parser.add_argument("--images", type=int, default=2000, help="test images, half of them abnormal (default: 2000)")
    parser.add_argument("--folds", type=int, default=1, help="models per run, each for its fold (default: 1)")
    parser.add_argument("--figure", help="file to draw")
    args = parser.parse_args()
    rates = simulate(args.tables, args.images, args.folds)
    for runs in RUNS:
        (old, old_tables), (new, new_tables) = rates["old"][runs], rates["new"][runs]
        print(f"{runs} run(s): old rule {100 * old:.1f} % of comparisons, {100 * old_tables:.1f} % of tables; "
              f"rule in use {100 * new:.1f} %, {100 * new_tables:.1f} %")  # fmt: skip
    if args.figure:
        draw(rates, f"{7 * args.tables:,} comparisons of equally good models, {args.images:,} images", args.figure)


if __name__ == "__main__":
    main()
