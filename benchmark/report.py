"""Write the README's tables and the receipt in each script's docstring from the committed results.

python -m benchmark.report
"""

import json
import math
import re

import numpy as np

from benchmark.run import CLOSED, FLAGS, RESULTS, ROOT, ROWS, SCRIPTS, path_of

RESULTS_MARKS = "<!-- results: python -m benchmark.report -->\n", "<!-- end of results -->"
DAGGERS = ["dagger", "hg_dagger"]
CLOSED_MARKS = "<!-- closed loop: python -m benchmark.report -->\n", "<!-- end of closed loop -->"
AGGREGATE_MARKS = "<!-- aggregate: python -m benchmark.report -->\n", "<!-- end of aggregate -->"
PRICES_MARKS = "<!-- prices: python -m benchmark.prices && python -m benchmark.report -->\n", "<!-- end of prices -->"


def mean_of(results, key):
    return float(np.mean([result[key] for result in results]))


def results_of(env_id, script):
    return [json.loads(path.read_text()) for path in sorted(RESULTS.glob(path_of(env_id, script, "*").name))]


def row(env_id, script):
    """One line of the table: means over the seeds, and the range of the seeds' means in brackets."""
    results = results_of(env_id, script)
    if not results:
        return None
    scores = [result["normalized_return"] for result in results]
    success = f"{mean_of(results, 'success_rate'):.1%}" if "success_rate" in results[0] else ""
    modes = ""
    if results[0].get("mode_counts"):
        numbers = sorted({len(result["mode_counts"]) for result in results})
        modes = f"{' or '.join(map(str, numbers))}, entropy {mean_of(results, 'mode_entropy'):.3f}"
    name = script.replace(" ", ".py ", 1) if " " in script else f"{script}.py"
    return (
        f"| `{env_id}` | `{name}` | {mean_of(results, 'return_mean'):.4g} of {results[0]['expert_return']:.4g} "
        f"| {np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f}) | {success} | {modes} "
        f"| {results[0]['num_transitions']:,} | {mean_of(results, 'total_seconds') / 60:.1f} | {len(results)} |"
    )


def table():
    rows = [row(env_id, script) for env_id in FLAGS for script in ROWS[env_id]]
    head = [
        "| environment | script | return | normalised (worst to best seed) | success | modes | labels | minutes | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(line for line in rows if line)]) + "\n"


def interquartile_mean(scores):
    """Mean of the middle half of the scores (..., N), a quarter of them left out at either end."""
    cut = scores.shape[-1] // 4
    return np.sort(scores)[..., cut : scores.shape[-1] - cut].mean(-1)


def even(tasks):
    """Scores (..., n) of each task, with n of its own, as one array (..., N) in which all tasks weigh the same."""
    most = math.lcm(*(task.shape[-1] for task in tasks))
    return np.concatenate([np.repeat(task, most // task.shape[-1], axis=-1) for task in tasks], axis=-1)


def aggregate():
    """All tasks of each script in one number, with a 95% interval from seeds drawn anew within each task.

    Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", 2021.
    """
    rows = ["| script | interquartile mean | 95% interval | runs | tasks |", "|---|---|---|---|---|"]
    env_ids = [env_id for env_id in FLAGS if set(SCRIPTS) <= set(ROWS[env_id])]
    for script in SCRIPTS:
        tasks = [[result["normalized_return"] for result in results_of(env_id, script)] for env_id in env_ids]
        tasks, rng = [np.array(task) for task in tasks if task], np.random.default_rng(0)
        drawn = even([rng.choice(task, (10_000, len(task))) for task in tasks])
        low, high = np.quantile(interquartile_mean(drawn), [0.025, 0.975])
        runs, score = sum(map(len, tasks)), interquartile_mean(even(tasks))
        rows.append(f"| `{script}.py` | {score:.3f} | {low:.3f} to {high:.3f} | {runs} | {len(tasks)} |")
    return "\n".join(rows) + "\n"


def prices():
    """The table of prices: what each way of holding several modes costs, and what it brings on Slalom-v0."""
    measured = json.loads((RESULTS / "prices.json").read_text())
    rows = [
        "| script | parameters | held-out NLL in nats | quantisation error | µs an action, batch of 1 / 20 | "
        "Slalom: success | mode entropy |",
        "|---|---|---|---|---|---|---|",
    ]
    for script in SCRIPTS:
        price, slalom = measured[script], results_of("Slalom-v0", script)
        nll = f"{price['held_out_nll']:.2f}" if "held_out_nll" in price else "not defined"
        error = f"{price['quantization_error']:.4f}" if "quantization_error" in price else "none"
        modes = "not run | not run"
        if slalom:
            entropy = f"{mean_of(slalom, 'mode_entropy'):.3f}" if slalom[0]["mode_counts"] else "none"
            modes = f"{mean_of(slalom, 'success_rate'):.1%} | {entropy}"
        times = " / ".join(f"{time:.0f}" for time in price["microseconds"])
        rows.append(f"| `{script}.py` | {price['num_parameters']:,} | {nll} | {error} | {times} | {modes} |")
    return "\n".join(rows) + "\n"


def risks(results):
    """Of the states that the novices visited after each round, near failure and in all: where doubt < tau, and not."""
    lines = [line for result in results for line in result["rounds"][1:] if "states_inside" in line]
    return [
        [sum(line[f"{kind}_{side}"] for line in lines) for kind in ("near_failure", "states")]
        for side in ("inside", "outside")
    ]


def closed():
    """The table of the closed loop: the labels, and who chose the states."""
    rows = [
        "| environment | command | labels | normalised (worst to best seed) | success "
        "| steps driven by the expert, rounds 1, 2, 3, 5 and last | states near failure, doubt < τ / ≥ τ | n |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for env_id, scripts in CLOSED.items():
        for script in scripts:
            if not (results := results_of(env_id, script)):
                continue
            scores = [result["normalized_return"] for result in results]
            success = f"{mean_of(results, 'success_rate'):.1%}" if "success_rate" in results[0] else ""
            shares, risk = "", ""
            if script.startswith("hg_dagger"):
                shares = np.mean(
                    [[line["expert_share"] for line in result["rounds"][1:]] for result in results], axis=0
                )
                shares = ", ".join(f"{share:.1%}" for share in shares[[0, 1, 2, 4, -1]])
                counts = risks(results)
                if any(near for near, _ in counts):
                    risk = " / ".join(
                        f"{near:,} of {states:,} ({near / states:.1%})" for near, states in counts if states
                    )
            labels = mean_of(results, "expert_labels")
            rows.append(
                f"| `{env_id}` | `{script.replace(' ', '.py ', 1)}` | {labels:,.0f} "
                f"| {np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f}) | {success} | {shares} | {risk} "
                f"| {len(results)} |"
            )
    return "\n".join(rows) + "\n"


def receipt(script):
    """The line of the docstring that says what the default command gives."""
    if script in DAGGERS:
        (command,) = (row for row in CLOSED["Hopper-v4"] if row.split()[0] == script and "--num-rounds 0" not in row)
        if not (results := results_of("Hopper-v4", command)):
            return f"    python {command.replace(' ', '.py --env-id Hopper-v4 ', 1)}\n"
        score, labels = mean_of(results, "normalized_return"), mean_of(results, "expert_labels")
        command = command.replace(" ", ".py --env-id Hopper-v4 ", 1)
        return f"    python {command}  # return {score:.3f}, {labels:,.0f} labels\n"
    results = results_of("Hopper-v4", script)
    returns, minutes = [result["return_mean"] for result in results], mean_of(results, "total_seconds") / 60
    score = f"{np.mean(returns):.0f} ± {np.std(returns):.0f} over {len(results)} seeds"
    return f"    python {script}.py --env-id Hopper-v4  # return {score}, {minutes:.1f} minutes on one core\n"


def with_receipt(script):
    """The script's text with its receipt."""
    pattern = rf"    python {script}\.py --env-id Hopper-v4 .*\n"
    return re.sub(pattern, lambda _: receipt(script), (ROOT / f"{script}.py").read_text())


def updated(readme):
    """The README's text with the tables of the committed results, and each script's number of lines."""
    for script in [*SCRIPTS, *DAGGERS]:
        lines = len((ROOT / f"{script}.py").read_text().splitlines())
        readme = re.sub(rf"(\| \[`{script}\.py`\].*\|) \d+ \|", rf"\g<1> {lines} |", readme)
    marks = RESULTS_MARKS, AGGREGATE_MARKS, PRICES_MARKS, CLOSED_MARKS
    for (begin, end), content in zip(marks, (table(), aggregate(), prices(), closed()), strict=True):
        new = begin + content + end
        readme = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, new=new: new, readme, flags=re.DOTALL)
    return readme


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text()))
    for script in [*SCRIPTS, *DAGGERS]:
        (ROOT / f"{script}.py").write_text(with_receipt(script))
