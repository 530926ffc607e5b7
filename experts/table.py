"""Write the table of `experts/README.md` from the metadata of the weights, between its markers.

python -m experts.table
"""

import re
from pathlib import Path

from experts import WEIGHTS, NeuralExpert

BEGIN, END = "<!-- experts: python -m experts.table -->\n", "<!-- end of experts -->"
PUBLISHED = {  # best mean return in rl-zoo3's benchmark.md or CleanRL's documentation, with the version they used
    "Hopper-v4": "3754 (TQC, rl-zoo3, v3)",
    "Walker2d-v4": "4718 (TD3, rl-zoo3, v3)",
    "HalfCheetah-v4": "12090 (TQC, rl-zoo3, v3)",
    "Ant-v4": "5813 (TD3, rl-zoo3, v3)",
    "Humanoid-v4": "7239 (TQC, rl-zoo3, v3)",
    "CartPole-v1": "500 (several, rl-zoo3)",
    "Acrobot-v1": "-74 (PPO, rl-zoo3)",
    "LunarLander-v3": "242 (PPO, rl-zoo3, v2)",
    "LunarLanderContinuous-v3": "278 (TQC, rl-zoo3, v2)",
    "BipedalWalker-v3": "330 (TQC, rl-zoo3)",
    "Pendulum-v1": "-151 (TQC, rl-zoo3)",
    "MountainCarContinuous-v0": "97 (ARS, rl-zoo3)",
    "Swimmer-v4": "359 (TD3, rl-zoo3, v3)",
}


def table():
    lines = [
        "| environment | 100 episodes | minimum | random | best published | algorithm, steps, hours | command |",
        "|---|---|---|---|---|---|---|",
    ]
    for path in sorted(WEIGHTS.glob("*.safetensors")):
        m = NeuralExpert(path).metadata
        mean, std, low, random = (float(m[key]) for key in ("return_mean", "return_std", "return_min", "random_return"))
        digits = int(abs(mean) < 100)
        lines.append(
            f"| `{m['env_id']}` | {mean:.{digits}f} ± {std:.{digits}f} "
            f"| {low:.{digits}f} | {random:.0f} | {PUBLISHED.get(m['env_id'], '')} "
            f"| {m['algorithm']}, {int(m['steps']):,}, {m['train_hours']} | `{m['command']}` |"
        )
    return "\n".join(lines) + "\n"


def updated(readme):
    """The README's text with the table of the shipped weights."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: BEGIN + table() + END, readme, flags=re.DOTALL)


if __name__ == "__main__":
    path = Path(__file__).parent / "README.md"
    path.write_text(updated(path.read_text()))
