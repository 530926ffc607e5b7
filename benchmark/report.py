"""Write the README's table and the receipt in each script's docstring from the committed results.

python -m benchmark.report
"""

import json
import re

import numpy as np

from benchmark.run import FLAGS, RESULTS, ROOT, SCRIPTS

BEGIN, END = "<!-- results: python -m benchmark.report -->\n", "<!-- end of results -->"


def mean_of(results, key):
    return float(np.mean([result[key] for result in results]))


def row(env_id, script):
    """One line of the table: means over the seeds, and the range of the seeds' means in brackets."""
    paths = sorted(RESULTS.glob(f"{env_id}__{script}__*.json"))
    results = [json.loads(path.read_text()) for path in paths]
    if not results:
        return None
    scores = [result["normalized_return"] for result in results]
    success = f"{mean_of(results, 'success_rate'):.1%}" if "success_rate" in results[0] else ""
    modes = ""
    if results[0].get("mode_counts"):
        numbers = sorted({len(result["mode_counts"]) for result in results})
        modes = f"{' or '.join(map(str, numbers))}, entropy {mean_of(results, 'mode_entropy'):.3f}"
    minutes = mean_of(results, "total_seconds") / 60
    return (
        f"| `{env_id}` | `{script}.py` | {mean_of(results, 'return_mean'):.4g} of {results[0]['expert_return']:.4g} "
        f"| {np.mean(scores):.3f} ({min(scores):.3f} to {max(scores):.3f}) | {success} | {modes} "
        f"| {results[0]['num_transitions']:,} | {minutes:.1f} | {len(results)} |"
    )


def table():
    rows = [row(env_id, script) for env_id in FLAGS for script in SCRIPTS]
    head = [
        "| environment | script | return | normalised (worst to best seed) | success | modes | labels | minutes | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *(line for line in rows if line)]) + "\n"


def receipt(script):
    """The line of the docstring that says what the default command gives."""
    paths = sorted(RESULTS.glob(f"Hopper-v4__{script}__*.json"))
    results = [json.loads(path.read_text()) for path in paths]
    returns, minutes = [result["return_mean"] for result in results], mean_of(results, "total_seconds") / 60
    score = f"{np.mean(returns):.0f} ± {np.std(returns):.0f} over {len(results)} seeds"
    return f"    python {script}.py --env-id Hopper-v4  # return {score}, {minutes:.1f} minutes on one core\n"


def with_receipt(script):
    """The script's text with its receipt."""
    pattern = rf"    python {script}\.py --env-id Hopper-v4  # .*\n"
    return re.sub(pattern, lambda _: receipt(script), (ROOT / f"{script}.py").read_text())


def updated(readme):
    """The README's text with the table of the committed results."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: BEGIN + table() + END, readme, flags=re.DOTALL)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(updated(path.read_text()))
    for script in SCRIPTS:
        (ROOT / f"{script}.py").write_text(with_receipt(script))
