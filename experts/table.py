"""Write the table of `experts/README.md` from the metadata of the weights, between its markers.

python -m experts.table
"""

import re
from pathlib import Path

from experts import WEIGHTS, NeuralExpert

BEGIN = "<!-- experts: python -m experts.table -->\n"
END = "<!-- end of experts -->"
HEADER = (
    "| environment | 100 episodes | minimum | random | published "
    "| algorithm, steps, hours | command |\n"
    "|---|---|---|---|---|---|---|\n"
)

# Mean returns that others report; experts/README.md names the sources. Where possible they are for
# the same version of the environment. Another version is another task, so each figure says which
# version it was measured on.
PUBLISHED = {
    "Acrobot-v1": "v1: -69 (QR-DQN, rl-zoo3)",
    "Ant-v4": "v4: 7467 (BRO, UTD 10)",
    "BipedalWalker-v3": "v3: 330 (TQC, rl-zoo3)",
    "CartPole-v1": "v1: 500 (several, rl-zoo3)",
    "HalfCheetah-v4": "v4: 15420 (BRO, UTD 10)",
    "HalfCheetah-v5": "v5: 11448 (SAC, farama-minari)",
    "Hopper-v4": "v4: 4151 (SimbaV2, UTD 8)",
    "Humanoid-v4": "v4: 11704 (SimbaV2, UTD 8)",
    "LunarLander-v3": "v2: 242 (PPO, rl-zoo3)",
    "LunarLanderContinuous-v3": "v2: 278 (TQC, rl-zoo3)",
    "MountainCarContinuous-v0": "v0: 97 (ARS, rl-zoo3)",
    "Pendulum-v1": "v1: -151 (TQC, rl-zoo3)",
    "Reacher-v4": "v4: -3.9 (RPO, CleanRL)",
    "Swimmer-v4": "v3: 366 (TRPO, rl-zoo3)",
    "Walker2d-v4": "v4: 6938 (SimbaV2, UTD 2)",
    "Walker2d-v5": "v5: 6957 (SAC, farama-minari)",
}


def row(metadata):
    """The line of one expert."""
    mean = float(metadata["return_mean"])
    std = float(metadata["return_std"])
    low = float(metadata["return_min"])
    random = float(metadata["random_return"])
    digits = 1 if abs(mean) < 100 else 0
    cells = [
        f"`{metadata['env_id']}`",
        f"{mean:.{digits}f} ± {std:.{digits}f}",
        f"{low:.{digits}f}",
        f"{random:.0f}",
        PUBLISHED.get(metadata["env_id"], ""),
        f"{metadata['algorithm']}, {int(metadata['steps']):,}, {metadata['train_hours']}",
        f"`{metadata['command']}`",
    ]
    return f"| {' | '.join(cells)} |\n"


def table():
    paths = sorted(WEIGHTS.glob("*.safetensors"))
    return HEADER + "".join(row(NeuralExpert(path).metadata) for path in paths)


def updated(readme):
    """The README's text with the table of the shipped weights."""
    old = f"{re.escape(BEGIN)}.*?{re.escape(END)}"
    new = BEGIN + table() + END
    return re.sub(old, lambda _: new, readme, flags=re.DOTALL)


if __name__ == "__main__":
    path = Path(__file__).parent / "README.md"
    path.write_text(updated(path.read_text()))
