"""The tables of the documents, computed from the committed results."""

import itertools
import json

import numpy as np
from scipy.stats import ttest_1samp

from benchmark import compounding, finetune, labels, steps
from benchmark.curves import curves_of
from benchmark.gaits import OVERLAP
from benchmark.grids import (
    BOTH_EXPERTS,
    CHUNKED,
    CHUNKS,
    CLOSED,
    CURVES,
    DEMONSTRATIONS,
    DISTURBED,
    GAITS,
    HORIZONS,
    HUMANOID,
    LABELS,
    LOCOMOTION,
    LONG,
    METHODS,
    MODES,
    NO_FORCES_ID,
    NOISE,
    NOISE_DEMOS,
    NOISES,
    NOISY_STARTS,
    NUM_DEMOS,
    NUM_ROAD_DEMOS,
    OFFLINE,
    ONE_EXPERT,
    RATES,
    READS_LESS,
    ROAD,
    ROADS,
    SCATTERED,
    SCRIPTS,
    SMALL,
    STARTS,
    STATE_ID,
    UNEVEN,
    Row,
    in_chunks,
    in_noise,
    is_compared,
    labelled_by,
    with_demos,
)
from benchmark.run import RESULTS, is_old, results_of
from benchmark.scores import demonstrated_share, mode_entropy, normalised
from experts import DRIVING

NUM_MODES = {env_id: 2 ** kwargs["num_obstacles"] for env_id, kwargs in DRIVING.items()}
UPDATES = [2000, 4000, 8000, 14000, 20000]
RATE_IDS = ["LaneChange-v0", "LaneChange10Hz-v0"]


def mean_of(results, key):
    return float(np.mean([result[key] for result in results]))


def scores_of(env_id, results):
    return np.array([normalised(env_id, result["return_mean"]) for result in results])


def success_of(results):
    """The mean success rate; nothing where the environment reports none."""
    if not results:
        return "not run"
    return f"{mean_of(results, 'success_rate'):.1%}" if "success_rate" in results[0] else ""


def ranged(values, form=".3f"):
    """The mean; and the range, where there is more than one value."""
    text = f"{np.mean(values):{form}}"
    if len(values) > 1:
        text += f" ({np.min(values):{form}} to {np.max(values):{form}})"
    return text


def short(row):
    """The command without the flags that all rows of an environment have: the page lists them."""
    command = row.command
    for flags in (ROAD, DISTURBED, SMALL):
        command = command.replace(f" {flags}", "")
    return command


def table(header, lines):
    head = "| " + " | ".join(header) + " |"
    rule = "|" + "---|" * len(header)
    return "\n".join([head, rule, *lines]) + "\n"


def offline():
    """Behaviour cloning: means over the seeds, and the range of the seeds in brackets."""
    lines = []
    for env_id, (rows, seeds) in OFFLINE.items():
        for row in rows:
            results = results_of(env_id, row, seeds)
            if not results:
                continue
            scores = scores_of(env_id, results)
            modes = ""
            if all(result.get("modes") for result in results):
                found = min(len(result["modes"]) for result in results)
                entropies = [mode_entropy(r["modes"], NUM_MODES[env_id]) for r in results]
                modes = f"{found}, entropy {np.mean(entropies):.3f}"
            lines.append(
                f"| `{env_id}` | `{short(row)}` | {mean_of(results, 'return_mean'):.4g} "
                f"| {ranged(scores)} "
                f"| {success_of(results)} | {modes} | {mean_of(results, 'expert_labels'):,.0f} "
                f"| {len(results)} |"
            )
    header = ["environment", "script", "return", "normalised (worst to best seed)", "success"]
    return table([*header, "modes", "labels", "n"], lines)


def demonstration_scores(env_id, script, num_demos):
    """Normalised returns of the seeds that were run, or an empty array."""
    _, seeds = DEMONSTRATIONS[env_id]
    return scores_of(env_id, results_of(env_id, with_demos(script, num_demos), seeds))


def demonstrations():
    """Five tasks by the number of demonstrations, and the mean of the tasks."""
    lines = []
    for script in SCRIPTS:
        for num_demos in NUM_DEMOS:
            tasks = [demonstration_scores(env_id, script, num_demos) for env_id in LOCOMOTION]
            if not all(map(len, tasks)):
                continue
            mean = np.mean([task.mean() for task in tasks])
            cells = [*map(ranged, tasks), f"{mean:.3f}", str(min(map(len, tasks)))]
            lines.append(f"| `{script}.py` | {num_demos} | {' | '.join(cells)} |")
    tasks = [f"`{env_id}`" for env_id in LOCOMOTION]
    return table(["script", "demonstrations", *tasks, "mean", "n"], lines)


def difference(env_id, row, other, seeds):
    """Of the scores of two rows on the same seeds: mean ± half of Student's 95% interval, and n."""
    found = []
    for seed in seeds:
        both = [*results_of(env_id, row, [seed]), *results_of(env_id, other, [seed])]
        if len(both) == 2 and not any(map(is_old, both)):
            found.append(np.subtract(*scores_of(env_id, both)))
    if len(found) < 3:
        return "not run"
    low, high = ttest_1samp(found, 0).confidence_interval()
    return f"{np.mean(found):+.3f} ± {(high - low) / 2:.3f} ({len(found)})"


def differences():
    """Each script against squared loss on the same seeds, with ten demonstrations."""
    lines = []
    for script in SCRIPTS[1:]:
        cells = []
        for env_id in LOCOMOTION:
            _, seeds = DEMONSTRATIONS[env_id]
            cells.append(difference(env_id, Row(script), Row("bc_mse"), seeds))
        lines.append(f"| `{script}.py` | {' | '.join(cells)} |")
    return table(["script", *(f"`{env_id}`" for env_id in LOCOMOTION)], lines)


def label_differences():
    """What one policy has more than another after as many episodes, on the same seeds."""
    pairs = [
        ("DART", "cloning"),
        ("DAgger", "cloning"),
        ("DART", "DAgger"),
        ("HG-DAgger", "DAgger"),
        ("HG-DAgger, gate 0.5", "DAgger"),
        ("HG-DAgger, five networks", "HG-DAgger"),
    ]
    lines = []
    for num_episodes, (method, other) in itertools.product(NUM_DEMOS, pairs):
        rows = [labelled_by(which, num_episodes) for which in (method, other)]
        cells = ["–"] * len(LOCOMOTION)
        for i, env_id in enumerate(LOCOMOTION):
            compared, seeds = LABELS[env_id]
            if set(rows) <= set(compared):
                cells[i] = difference(env_id, *rows, seeds)
        if set(cells) != {"–"}:
            lines.append(f"| {num_episodes} | {method}, less {other} | {' | '.join(cells)} |")
    return table(["episodes", "difference", *(f"`{env_id}`" for env_id in LOCOMOTION)], lines)


def chunks():
    """Return or success by the number of actions in a chunk."""
    lines = []
    for env_id, (_, seeds) in CHUNKS.items():
        is_road = env_id in RATE_IDS
        flags = ROAD if is_road else ""
        for script in CHUNKED:
            cells = []
            counts = []
            for horizon in HORIZONS:
                results = results_of(env_id, in_chunks(script, horizon, flags), seeds)
                counts.append(len(results))
                if not results:
                    cells.append("not run")
                elif is_road:
                    cells.append(ranged([result["success_rate"] for result in results], ".1%"))
                else:
                    cells.append(ranged(scores_of(env_id, results)))
            lines.append(f"| `{env_id}` | `{script}.py` | {' | '.join(cells)} | {min(counts)} |")
    return table(["environment", "script, actions in a chunk:", *map(str, HORIZONS), "n"], lines)


def on_the_way():
    """Returns by the number of updates: the mean of the seeds."""
    lines = []
    ((env_id, (rows, _)),) = CURVES.items()
    for row in rows:
        found = curves_of(env_id, row)
        if found is None:
            continue
        updates, returns = found
        chosen = np.isin(updates, UPDATES)
        cells = [f"{value:.3f}" for value in returns.mean(axis=0)[chosen]]
        lines.append(f"| `{row.script}.py` | {' | '.join(cells)} | {len(returns)} |")
    columns = [f"{number:,}" for number in UPDATES]
    return table(["script, updates:", *columns, "n"], lines)


def mass():
    """How often each script passes on the left, beside the demonstrations it was given."""
    lines = []
    for env_id, (rows, seeds) in [*MODES.items(), *UNEVEN.items()]:
        for row in rows:
            results = results_of(env_id, row, seeds)
            if not results:
                continue
            expert = results[0]["args"]["expert"]
            lefts = [r["modes"].get("L", 0) / sum(r["modes"].values()) for r in results]
            demos = [
                demonstrated_share("L", env_id, r["seed"], NUM_ROAD_DEMOS, expert) for r in results
            ]
            gaps = np.array(lefts) - np.array(demos)
            successes = [r["success_rate"] for r in results]
            lines.append(
                f"| `{short(row)}` | {np.mean(successes):.2%} ({min(successes):.1%}) "
                f"| {np.mean(lefts):.1%} ({min(lefts):.1%} to {max(lefts):.1%}) "
                f"| {np.mean(demos):.1%} ({min(demos):.1%} to {max(demos):.1%}) "
                f"| {gaps.mean():+.3f} | {np.abs(gaps).max():.3f} | {len(results)} |"
            )
    header = ["script", "success (worst seed)", "left (range of seeds)", "left in demonstrations"]
    return table([*header, "mean difference", "largest", "n"], lines)


def roads():
    """Success on the roads by the number of updates: the mean, the worst and the best seed."""
    lines = []
    for env_id, (_, seeds) in ROADS.items():
        for script in SCRIPTS:
            cells = []
            for flags in (ROAD, LONG):
                results = results_of(env_id, Row(script, flags), seeds)
                successes = [result["success_rate"] for result in results]
                cells += [ranged(successes, ".1%") if results else "not run", str(len(results))]
            lines.append(f"| `{env_id}` | `{script}.py` | {' | '.join(cells)} |")
    header = ["environment", "script", "success after 5,000 updates (range of seeds)", "n"]
    return table([*header, "after 20,000", "n"], lines)


def prices():
    """What each way of holding several modes costs, and what it brings on Slalom-v0."""
    measured = json.loads((RESULTS / "prices.json").read_text())
    speed = json.loads((RESULTS / "speed.json").read_text())
    _, seeds = OFFLINE["Slalom-v0"]
    lines = []
    for script in SCRIPTS:
        slalom = results_of("Slalom-v0", Row(script, ROAD), seeds)
        distance = "none"
        if script == "bc_autoregressive":
            distance = f"{measured['distance_to_bins']:.4f}"
        one, twenty = (speed[script][f"action_to_mse_{num}"] for num in (1, 20))
        lines.append(
            f"| `{script}.py` | {measured['num_parameters'][script]:,} | {distance} "
            f"| {speed[script]['update_to_mse']:.1f} | {one:.1f} / {twenty:.1f} "
            f"| {success_of(slalom)} |"
        )
    header = ["script", "parameters", "distance to the nearest bins"]
    header += ["time of an update", "time of an action, alone / in a batch of 20"]
    header.append("Slalom: success")
    return table(header, lines)


def floors():
    """Updates and environment steps beside the least that they can cost."""
    speed = json.loads((RESULTS / "speed.json").read_text())
    updates = [f"{speed[script]['update_to_floor']:.1f}" for script in SCRIPTS]
    shares = [f"{speed[script]['share_of_bare_steps']:.0%}" for script in SCRIPTS]
    lines = [
        f"| update, as a multiple of its matrix products | {' | '.join(updates)} |",
        f"| environment steps, as a share of bare stepping | {' | '.join(shares)} |",
    ]
    return table(["", *(f"`{script}.py`" for script in SCRIPTS)], lines)


def phases():
    """Where the time of the default command goes."""
    spent = json.loads((RESULTS / "speed.json").read_text())["phases"]
    names = ["collect_demonstrations", "train", "evaluate"]
    shares = [spent[name] / sum(spent.values()) for name in names]
    line = " | ".join(f"{share:.0%}" for share in shares)
    return table(["demonstrations", "training", "evaluation"], [f"| {line} |"])


def closed():
    """The closed loop: how many labels, and who chose the states that got them."""
    lines = []
    for env_id, (rows, seeds) in CLOSED.items():
        for row in rows:
            results = results_of(env_id, row, seeds)
            if not results:
                continue
            scores = scores_of(env_id, results)
            lines.append(
                f"| `{env_id}` | `{short(row)}` "
                f"| {mean_of(results, 'expert_labels'):,.0f} "
                f"| {ranged(scores)} | {success_of(results)} | {len(results)} |"
            )
    header = ["environment", "command", "labels", "normalised (worst to best seed)", "success"]
    return table([*header, "n"], lines)


def bought():
    """What a label buys: normalised return and labels, by episodes of the expert's time."""
    lines = []
    for env_id in LOCOMOTION:
        for method in METHODS:
            found = labels.measured(env_id, method)
            if not found:
                continue
            cells = {n: "not run" if is_compared(env_id, method, n) else "–" for n in NUM_DEMOS}
            for num_episodes, (num_labels, returns) in found.items():
                if cells[num_episodes] != "–":
                    cells[num_episodes] = f"{ranged(returns)}; {num_labels.mean():,.0f}"
            enough = "–"
            if "not run" not in cells.values() and len(found) > 1:
                number = labels.labels_until_enough(found)
                enough = f"{number:,.0f}" if number else "not reached"
            lines.append(f"| `{env_id}` | {method} | {' | '.join(cells.values())} | {enough} |")
    columns = [f"{n} episode{'s' * (n > 1)}" for n in NUM_DEMOS]
    return table(["environment", "policy", *columns, f"labels until {labels.ENOUGH}"], lines)


def ten_episodes():
    """The same for ten episodes alone: the mean of the seeds and the worst; labels."""
    lines = []
    for method in ("cloning", "DART", "DAgger", "HG-DAgger"):
        cells = ["not run"] * len(LOCOMOTION)
        for i, env_id in enumerate(LOCOMOTION):
            found = labels.measured(env_id, method)
            if 10 in found:
                num_labels, returns = found[10]
                cells[i] = f"{returns.mean():.2f} ({returns.min():.2f}); {num_labels.mean():,.0f}"
        lines.append(f"| {method} | {' | '.join(cells)} |")
    tasks = [env_id.removesuffix("-v4") for env_id in LOCOMOTION]
    return table(["policy", *tasks], lines)


def noises():
    """DART by the size of its noise, on the seeds that its default was chosen on."""
    lines = []
    for env_id, num_demos in NOISE_DEMOS:
        _, seeds = NOISE[env_id]
        rows = [in_noise(num_demos, noise) for noise in NOISES]
        found = [scores_of(env_id, results_of(env_id, row, seeds)) for row in rows]
        cells = [ranged(scores) if len(scores) else "not run" for scores in found]
        least = min((len(scores) for scores in found if len(scores)), default=0)
        lines.append(f"| `{env_id}` | {num_demos} | {' | '.join(cells)} | {least} |")
    return table(["environment", "demonstrations", *map(str, NOISES), "n"], lines)


def humanoid():
    """The same labels from ten whole demonstrations, or from the beginnings of fifty."""
    pairs = [(Row(script), Row(script, f"--num-demos 50 --dataset {STARTS}")) for script in SCRIPTS]
    pairs.append((Row("dart"), Row("bc_mse", f"--num-demos 50 --dataset {NOISY_STARTS}")))
    _, seeds = HUMANOID["Humanoid-v4"]
    lines = []
    for rows in pairs:
        cells = []
        for row in rows:
            results = results_of("Humanoid-v4", row, seeds)
            cells.append(ranged(scores_of("Humanoid-v4", results)) if results else "not run")
            cells.append(str(len(results)))
        lines.append(f"| `{rows[0].command}` | {' | '.join(cells)} |")
    header = ["script", "10 whole demonstrations", "n", "the first 200 steps of 50", "n"]
    return table(header, lines)


def humanoid_controls():
    """What else may explain it: more starts, or fewer observations."""
    starts = Row("bc_mse", f"--num-demos 50 --dataset {STARTS}")
    cells = {
        "10 whole demonstrations": ("Humanoid-v4", Row("bc_mse")),
        "the first 200 steps of 50": ("Humanoid-v4", starts),
        "one label in five of 50 whole ones": ("Humanoid-v4", SCATTERED),
        "10 whole ones, without the forces of the actuators": (
            NO_FORCES_ID,
            Row("bc_mse", READS_LESS),
        ),
        "10 whole ones, positions and velocities alone": (STATE_ID, Row("bc_mse", READS_LESS)),
        "10 whole ones, disturbed": ("Humanoid-v4", Row("dart")),
        "10 whole ones, disturbed, positions and velocities alone": (
            STATE_ID,
            Row("dart", READS_LESS),
        ),
    }
    _, seeds = HUMANOID["Humanoid-v4"]
    lines = []
    for what, (env_id, row) in cells.items():
        results = results_of(env_id, row, seeds)
        score = ranged(scores_of("Humanoid-v4", results)) if results else "not run"
        lines.append(f"| {what} | {score} | {len(results)} |")
    return table(["squared loss learns from", "normalised (worst to best seed)", "n"], lines)


def rates():
    """One action in two seconds beside ten a second, on the same road."""
    _, seeds = RATES["LaneChange10Hz-v0"]
    lines = []
    for script in SCRIPTS:
        cells = []
        counts = []
        for env_id in RATE_IDS:
            results = results_of(env_id, Row(script, ROAD), seeds)
            counts.append(len(results))
            entropy = ""
            if results and all(result["modes"] for result in results):
                entropies = [mode_entropy(result["modes"], 2) for result in results]
                entropy = f"{np.mean(entropies):.3f}"
            cells += [success_of(results), entropy]
        lines.append(f"| `{script}.py` | {' | '.join(cells)} | {min(counts)} |")
    cells = []
    for env_id in RATE_IDS:
        lefts = [demonstrated_share("L", env_id, seed, NUM_ROAD_DEMOS) for seed in seeds]
        entropies = [mode_entropy({"L": left, "R": 1 - left}, 2) for left in lefts]
        cells += ["", f"{np.mean(entropies):.3f}"]
    lines.append(f"| demonstrations | {' | '.join(cells)} | {len(seeds)} |")
    header = ["script", "success, one action in 2 s", "entropy of modes"]
    return table([*header, "success, ten a second", "entropy of modes", "n"], lines)


def compounded():
    """Falls by time, and errors on the expert's states and on the policy's own before a fall."""
    lines = []
    for env_id, rows in compounding.ROWS.items():
        for label, row in rows.items():
            results = results_of(env_id, row, compounding.SEEDS)
            if not results:
                continue
            on_expert, on_own = compounding.early_errors(results)
            has_fallen = compounding.fallen(results)[..., -1]
            shares = ["" if np.isnan(x) else f"{x:.1%}" for x in compounding.hazards(results)]
            lines.append(
                f"| `{env_id}` | {label} "
                f"| {mean_of(results, 'expert_labels'):,.0f} "
                f"| {scores_of(env_id, results).mean():.3f} | {on_expert:.3f} | {on_own:.3f} "
                f"| {has_fallen.sum()} of {has_fallen.size} | {' | '.join(shares)} |"
            )
    header = ["environment", "policy", "labels", "normalised", "error on the expert's states"]
    header += ["on its own", "falls"]
    header += [f"steps {begin} to {end}" for begin, end in compounding.INTERVALS]
    return table(header, lines)


def of_both_experts(env_id, script):
    """Normalised returns of a script that learns from both experts of a task."""
    if env_id in GAITS:
        _, seeds = GAITS[env_id]
        row = BOTH_EXPERTS[env_id][SCRIPTS.index(script)]
    else:  # on the road the driver is both: these are the runs of the tables above
        _, seeds = RATES["LaneChange10Hz-v0"]
        row = Row(script, ROAD)
    return scores_of(env_id, results_of(env_id, row, seeds))


def two_experts():
    """How far two experts of one task overlap, and what each script makes of both."""
    lines = []
    for env_id, overlap in json.loads(OVERLAP.read_text()).items():
        one_expert = ""
        if env_id in GAITS:
            _, seeds = GAITS[env_id]
            results = results_of(env_id, ONE_EXPERT[env_id], seeds)
            one_expert = f"{scores_of(env_id, results).mean():.3f}" if results else "not run"
        both = [of_both_experts(env_id, script) for script in SCRIPTS]
        cells = [f"{scores.mean():.3f}" if len(scores) else "not run" for scores in both]
        alike = f"{overlap['states_alike']:.2f} | {overlap['variance_left_open']:.3f}"
        lines.append(
            f"| `{env_id}` | {alike} | {one_expert} | {' | '.join(cells)} | {min(map(len, both))} |"
        )
    header = ["environment", "states alike", "variance left open", "`bc_mse.py`, one expert"]
    return table([*header, *(f"`{script}.py`" for script in SCRIPTS), "n"], lines)


def inference_steps():
    """Success by the number of steps from noise to action."""
    lines = []
    for row in steps.ROWS:
        results = results_of(steps.ENV_ID, row, steps.SEEDS)
        if not results:
            continue
        cells = []
        for num_steps in steps.NUM_STEPS:
            found = [result["steps"][str(num_steps)] for result in results]
            cells.append(f"{mean_of(found, 'success_rate'):.1%}")
        lines.append(f"| `{row.script}.py` | {' | '.join(cells)} | {len(results)} |")
    return table(["steps", *map(str, steps.NUM_STEPS), "n"], lines)


def tuned():
    """PPO from a clone and from scratch: returns at the start, lowest, highest, and at the end."""
    lines = []
    for env_id in finetune.ENV_IDS:
        for name, recipe in finetune.recipes_of(env_id).items():
            num_steps, curves, explored = finetune.curves_of(env_id, name)
            if not len(curves):
                continue
            lowest = curves.min(axis=1)
            means = curves.mean(axis=0)
            best = means.argmax()
            last = curves[:, -1]
            lines.append(
                f"| `{env_id}` | {recipe.label} | {curves[:, 0].mean():.3f} | {lowest.mean():.3f} "
                f"| {means[best]:.3f} at {num_steps[best]:,.0f} | {ranged(last)} "
                f"| {explored[:, 1].mean():.3f} | {explored[:, -1].mean():.3f} | {len(curves)} |"
            )
    header = ["environment", "PPO starts", "return at the start", "lowest"]
    header.append("highest mean, at steps")
    header += ["at the end (worst to best seed)", "with exploration, first", "last", "n"]
    return table(header, lines)
