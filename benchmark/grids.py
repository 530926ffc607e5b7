"""The rows and seeds of the tables: what `python -m benchmark.run --grid <name>` runs.

A grid is {environment: (rows, seeds)}. Rows that are compared have the same seeds.

Seeds: with --seed s a run starts its demonstrations from 1,000,000 s on, evaluations from + 500,000
and the rounds of a DAgger from + 600,000; its expert draws from + 700,000, and noise and β from
+ 800,000. The studies start environments from + 600,000 to train PPO and + 800,000 to evaluate it
(finetune.py), + 700,000 (compounding.py), and 950,000,000 to 980,000,100 (gaits.py). Defaults were
tuned on the seeds 0, 1, 7, 10, 71 to 77 and 100, which no other table reports.
"""

from typing import NamedTuple


class Row(NamedTuple):
    """A script and its flags, run as it is, or in a study that measures more."""

    script: str
    flags: str = ""
    study: str = ""

    def __str__(self):
        """As in the names of results."""
        return " ".join(part for part in (self.study, self.script, self.flags) if part)

    @property
    def command(self):
        return f"{self.script}.py {self.flags}".strip()


def rows_of(scripts, flags=""):
    return [Row(script, flags) for script in scripts]


SCRIPTS = ["bc_mse", "bc_gaussian", "bc_mog", "bc_autoregressive", "bc_diffusion", "bc_flow"]
EXPRESSIVE = SCRIPTS[2:]  # can hold several modes
DAGGERS = ["dagger", "hg_dagger"]
ALL = [*SCRIPTS, "dart", *DAGGERS]
FIVE = [4, 5, 6, 8, 9]

# --- The road ---
NUM_ROAD_DEMOS = 200
LONG = f"--num-demos {NUM_ROAD_DEMOS} --eval-episodes 500"  # 20,000 updates
ROAD = f"--num-demos {NUM_ROAD_DEMOS} --num-updates 5000 --eval-episodes 500"
DRAWN = Row("bc_gaussian", f"--stochastic {ROAD}")
ON_ROADS = ([*rows_of(SCRIPTS, ROAD), DRAWN], [*range(21, 31)])

# Does it depend on the seed, or on how long they train?
ROADS = {
    env_id: ([*rows_of(SCRIPTS, ROAD), *rows_of(SCRIPTS, LONG)], [*range(21, 41)])
    for env_id in ("LaneChange-v0", "Slalom-v0")
}

# How often does each mode occur? And if the expert passes on the left four times out of five?
MODES = {"LaneChange-v0": (rows_of(EXPRESSIVE, ROAD), [*range(21, 41)])}
MOSTLY_LEFT = f"{ROAD} --expert experts.driving:mostly_left"
UNEVEN = {"LaneChange-v0": (rows_of(EXPRESSIVE, MOSTLY_LEFT), [*range(21, 26)])}

# Ten actions a second, not one in two seconds: is the mean of two modes still a mistake?
RATES = {"LaneChange10Hz-v0": (rows_of(SCRIPTS, ROAD), [*range(21, 26)])}

OFFLINE = {
    "Hopper-v4": (rows_of(SCRIPTS), FIVE),
    "Walker2d-v4": (rows_of(SCRIPTS), [4, 5, 6]),
    "LaneChange-v0": ON_ROADS,
    "Slalom-v0": ON_ROADS,
    "CartPole-v1": ([Row("bc_autoregressive", "--eval-episodes 500")], [4, 5, 6]),
}

# --- Demonstrations and labels, on five tasks ---
LOCOMOTION = ["Hopper-v4", "Walker2d-v4", "HalfCheetah-v4", "Ant-v4", "Humanoid-v4"]
NUM_DEMOS = [1, 4, 10, 25]


def with_demos(script, num_demos):
    return Row(script, "" if num_demos == 10 else f"--num-demos {num_demos}")


DEMONSTRATIONS = {
    env_id: ([with_demos(script, num) for num in NUM_DEMOS for script in SCRIPTS], FIVE)
    for env_id in LOCOMOTION
}

# Chunks of actions, executed to the end before the next is drawn.
CHUNKED = ["bc_diffusion", "bc_flow"]
HORIZONS = [1, 4, 8, 16]


def in_chunks(script, horizon, flags=""):
    chunks = "" if horizon == 1 else f"--horizon {horizon} --action-horizon {horizon}"
    return Row(script, f"{chunks} {flags}".strip())


CHUNKS = {
    "Hopper-v4": ([in_chunks(script, h) for h in HORIZONS for script in CHUNKED], [4, 5, 6]),
    "HalfCheetah-v4": ([in_chunks(script, h) for h in HORIZONS for script in CHUNKED], [4, 5, 6]),
    "LaneChange10Hz-v0": (
        [in_chunks(script, h, ROAD) for h in HORIZONS for script in CHUNKED],
        [21, 22, 23],
    ),
}

# Returns on the way, from ten demonstrations.
EVERY_2000 = rows_of([*SCRIPTS, "dart"], "--eval-every 2000")
CURVES = {"Walker2d-v4": (EVERY_2000, [4, 5, 6])}

# What a label buys. A row costs 1, 4, 10 or 25 episodes of the expert's time: to act, plainly or in
# noise; or after a first demonstration one in each round, to label the policy's states or to watch
# and take over. All rows have the same network, number of updates and seeds. (A DAgger evaluates
# one episode per environment in each round; five are enough for its curve.)
METHODS = {  # a script, and flags of its own
    "cloning": ("bc_mse", ""),
    "DART": ("dart", ""),
    "DART, noise 0.12": ("dart", "--noise 0.12"),  # on Humanoid alone, with 25 episodes
    "DAgger": ("dagger", ""),
    "HG-DAgger": ("hg_dagger", "--ensemble-size 1"),  # one network, as the others
    "HG-DAgger, gate 0.5": ("hg_dagger", "--gate-threshold 0.5 --ensemble-size 1"),
    "HG-DAgger, five networks": ("hg_dagger", ""),
}


def labelled_by(method, num_episodes):
    script, flags = METHODS[method]
    episodes = with_demos(script, num_episodes).flags
    if script in DAGGERS:
        episodes = f"--num-demos 1 --num-rounds {num_episodes - 1} --episodes-per-round 1"
        episodes += " --num-envs 5"
    return Row(script, f"{episodes} {flags}".strip())


def is_compared(env_id, method, num_episodes):
    """Whether the cell is run.

    A first demonstration is the same for cloning and the DAggers. 25 episodes are for the tasks
    that ten leave something to gain.
    """
    if method == "DART, noise 0.12":
        return (env_id, num_episodes) == ("Humanoid-v4", 25)
    if method == "HG-DAgger, five networks":
        return num_episodes == 10
    if num_episodes == 25:
        has_room = env_id in ("HalfCheetah-v4", "Humanoid-v4")
        return has_room and method != "HG-DAgger, gate 0.5"
    return num_episodes > 1 or method in ("cloning", "DART")


LABELS = {
    env_id: (
        [
            labelled_by(method, num_episodes)
            for num_episodes in NUM_DEMOS
            for method in METHODS
            if is_compared(env_id, method, num_episodes)
        ],
        FIVE,
    )
    for env_id in LOCOMOTION
}

# How much noise? On the seeds that the default was chosen on.
NOISES = [0.03, 0.06, 0.12]
NOISE_DEMOS = [
    ("Hopper-v4", 1),
    ("Walker2d-v4", 4),
    ("HalfCheetah-v4", 4),
    ("Ant-v4", 4),
    ("Humanoid-v4", 10),
    ("Humanoid-v4", 25),
]


def in_noise(num_demos, noise):
    return Row("dart", f"{with_demos('dart', num_demos).flags} --noise {noise}".strip())


NOISE = {
    env_id: (
        [in_noise(num, noise) for task, num in NOISE_DEMOS if task == env_id for noise in NOISES],
        [71, 72, 73],
    )
    for env_id in LOCOMOTION
}

# Ten demonstrations of Humanoid, or as many labels of fifty: from their starts, plain and
# disturbed, or one label in five. And with fewer observations.
STARTS = "humanoid/starts-v0"
NOISY_STARTS = "humanoid/noisy-starts-v0"
SCATTERED = Row("dagger", "--num-rounds 0 --num-demos 50 --label-share 0.2")
READS_LESS = "--expert benchmark.humanoid:expert"
STATE_ID = "benchmark.humanoid:HumanoidState-v0"
NO_FORCES_ID = "benchmark.humanoid:HumanoidNoForces-v0"
HUMANOID = {
    "Humanoid-v4": (
        [
            *rows_of(SCRIPTS),
            *rows_of(SCRIPTS, f"--num-demos 50 --dataset {STARTS}"),
            Row("dart"),
            Row("bc_mse", f"--num-demos 50 --dataset {NOISY_STARTS}"),
            SCATTERED,
        ],
        FIVE,
    ),
    STATE_ID: (rows_of(["bc_mse", "dart"], READS_LESS), FIVE),
    NO_FORCES_ID: (rows_of(["bc_mse"], READS_LESS), FIVE),
}

# --- Few labels, and who chooses the states that get them ---
# `--num-rounds 0` is behaviour cloning: on as many labels as DAgger begins with, and on about as
# many as it ends with, or more: scattered over many demonstrations, and all of a few.
CLOSED_SEEDS = [11, 12, 13, 14, 15]
SMALL = "--num-updates 5000 --eval-episodes 500"
LEFT = "road/left-v0"
PREFERS_LEFT = "--expert experts.driving:prefers_left"
DISTURBED = f"--dataset {LEFT} {PREFERS_LEFT} {SMALL}"
SPARSE = f"--num-demos 1 --label-share 0.05 {SMALL}"
BOTH_DAGGERS = {  # on the same tasks
    "CartPole-v1": {
        "dagger": Row("dagger", SPARSE),
        "hg_dagger": Row(
            "hg_dagger", f"--num-demos 1 --label-share 0.05 --gate-threshold 0.5 {SMALL}"
        ),
    },
    "LaneChangeDisturbed-v0": {
        "dagger": Row("dagger", f"--episodes-per-round 20 {DISTURBED}"),
        "hg_dagger": Row(
            "hg_dagger",
            f"--episodes-per-round 20 --gate-threshold 1.5 --gate-steps 1 {DISTURBED}",
        ),
    },
}
CLOSED = {
    "Hopper-v4": (
        [
            Row("dagger", "--num-rounds 0 --num-demos 1 --label-share 0.1"),
            Row("dagger", "--num-rounds 0 --num-demos 30 --label-share 0.1"),
            Row("dagger", "--num-rounds 0 --num-demos 3"),
            Row("dagger", "--num-rounds 10 --num-demos 1 --label-share 0.1"),
            Row("hg_dagger", "--num-rounds 10 --num-demos 1 --label-share 0.1"),
            Row("dagger"),
            Row("hg_dagger"),
        ],
        CLOSED_SEEDS,
    ),
    "CartPole-v1": (
        [
            Row("dagger", f"--num-rounds 0 {SPARSE}"),
            Row("dagger", f"--num-rounds 0 --num-demos 40 --label-share 0.05 {SMALL}"),
            *BOTH_DAGGERS["CartPole-v1"].values(),
        ],
        CLOSED_SEEDS,
    ),
    "LaneChangeDisturbed-v0": (
        [
            Row("dagger", f"--num-rounds 0 {DISTURBED}"),
            Row("dagger", f"--num-rounds 0 --num-demos 200 {DISTURBED}"),
            Row("dagger", f"--num-rounds 0 --num-demos 200 {PREFERS_LEFT} {SMALL}"),
            *BOTH_DAGGERS["LaneChangeDisturbed-v0"].values(),
        ],
        CLOSED_SEEDS,
    ),
    # Two modes: whose states are labelled and how many modes a policy can hold are two questions.
    "LaneChange-v0": ([Row("dagger", f"--episodes-per-round 20 {SMALL}")], CLOSED_SEEDS),
}

# --- One expert, and it with its mirror image, half of the demonstrations each ---
ONE_EXPERT = {
    "Reacher-v4": Row("bc_mse", "--num-envs 20 --num-demos 200"),
    "Swimmer-v4": Row("bc_mse", "--num-demos 20"),
}
PAIR_OF = {"Reacher-v4": "benchmark.gaits:reacher", "Swimmer-v4": "benchmark.gaits:swimmer"}
BOTH_EXPERTS = {
    env_id: rows_of(SCRIPTS, f"{ONE_EXPERT[env_id].flags} --expert {pair}")
    for env_id, pair in PAIR_OF.items()
}
GAITS = {env_id: ([ONE_EXPERT[env_id], *BOTH_EXPERTS[env_id]], [4, 5, 6]) for env_id in ONE_EXPERT}

GRIDS = {
    "offline": OFFLINE,
    "modes": MODES,
    "uneven": UNEVEN,
    "roads": ROADS,
    "demonstrations": DEMONSTRATIONS,
    "chunks": CHUNKS,
    "curves": CURVES,
    "labels": LABELS,
    "noise": NOISE,
    "closed": CLOSED,
    "rates": RATES,
    "humanoid": HUMANOID,
    "gaits": GAITS,
}

# Data sets that are recorded anew for each seed, from the starts of a script's demonstrations.
RECORDINGS = {
    LEFT: f"--env-id LaneChange-v0 {PREFERS_LEFT} --episodes 200",
    STARTS: "--env-id Humanoid-v4 --max-episode-steps 200 --episodes 55",
    NOISY_STARTS: "--env-id Humanoid-v4 --max-episode-steps 200 --episodes 55 --noise 0.06",
}
