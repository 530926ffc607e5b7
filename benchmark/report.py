"""Write the tables of the documents and each script's receipt from the committed results.

python -m benchmark.report
"""

import re

import numpy as np

from benchmark import claims, tables
from benchmark.grids import ALL, CLOSED_SEEDS, DAGGERS, OFFLINE, Row
from benchmark.run import ROOT, results_of

DOCUMENTS = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md")])
TABLES = {
    "results": tables.offline,
    "mass": tables.mass,
    "roads": tables.roads,
    "rates": tables.rates,
    "demonstrations": tables.demonstrations,
    "differences": tables.differences,
    "chunks": tables.chunks,
    "learning curves": tables.on_the_way,
    "compounding": tables.compounded,
    "steps": tables.inference_steps,
    "prices": tables.prices,
    "floors": tables.floors,
    "phases": tables.phases,
    "labels": tables.bought,
    "label differences": tables.label_differences,
    "ten episodes": tables.ten_episodes,
    "noise": tables.noises,
    "humanoid": tables.humanoid,
    "humanoid controls": tables.humanoid_controls,
    "closed loop": tables.closed,
    "gaits": tables.two_experts,
    "finetune": tables.tuned,
    "claims": claims.english,
    "claims in Chinese": claims.chinese,
}


def with_receipt(script):
    """The script with the result of its default command, if it has one."""
    text = (ROOT / f"{script}.py").read_text()
    seeds = CLOSED_SEEDS if script in DAGGERS else OFFLINE["Hopper-v4"][1]
    results = results_of("Hopper-v4", Row(script), seeds)
    if not results:
        return text
    returns = [result["return_mean"] for result in results]
    score = f"# return {np.mean(returns):.0f}, std {np.std(returns, ddof=1):.0f}"
    score += f" over {len(results)} seeds"
    return re.sub(rf"(    python {script}\.py --env-id Hopper-v4  )# .*", rf"\g<1>{score}", text)


def updated(text):
    """A document's text with the tables of the committed results and each script's length."""
    for script in ALL:
        lines = len((ROOT / f"{script}.py").read_text().splitlines())
        text = re.sub(rf"(\| \[`{script}\.py`\].*\|) \d+ \|", rf"\g<1> {lines} |", text)
    pattern = r"(<!-- ([\w -]+): python -m benchmark.report -->\n).*?(<!-- end of \2 -->)"
    return re.sub(pattern, lambda m: m[1] + TABLES[m[2]]() + m[3], text, flags=re.DOTALL)


if __name__ == "__main__":
    for path in DOCUMENTS:
        path.write_text(updated(path.read_text()))
    for script in ALL:
        (ROOT / f"{script}.py").write_text(with_receipt(script))
