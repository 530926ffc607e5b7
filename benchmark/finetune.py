"""A clone as the start of reinforcement learning: PPO from bc_gaussian.py, and from scratch.

    pip install 'stable-baselines3>=2.5'
    python -m benchmark.finetune              # run what is missing, draw
    python -m benchmark.finetune --only-draw  # what is there

The actor of PPO begins as the clone of one or of four demonstrations, with the same mean of the
actions. With its settings from scratch ("--as-from-scratch") PPO explores so widely that a clone
falls, takes large steps, and follows a critic that knows nothing yet. So a clone explores with a
small deviation and changes with a small learning rate, and for the first WARM_UP steps only the
critic is trained. Observations are standardised as the clone does it; from scratch by their running
mean and variance, as is usual. All else is the same.

PPO is Stable-Baselines3's, https://github.com/DLR-RM/stable-baselines3.
"""

import sys
import time
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
import tyro

from benchmark.compounding import FEW_EVALUATIONS
from benchmark.grids import Row
from benchmark.run import ROOT, StudyArgs, results_of, run_missing, trained
from benchmark.scores import normalised

ENV_IDS = ["Hopper-v4", "Walker2d-v4"]
SEEDS = [41, 42, 43, 44, 45]
NUM_ENVS = 8
ROUND = 2048  # steps of all environments between PPO's updates
NUM_STEPS = 144 * ROUND
WARM_UP = 24 * ROUND  # in which only the critic of a clone is trained
CRITIC_LEARNING_RATE = 3e-4
EVAL_EVERY = 12 * ROUND
EVAL_EPISODES = 10


@dataclass(frozen=True)
class Recipe:
    label: str
    colour: str
    num_demos: int | None  # of the clone; None: from scratch
    learning_rate: float = 3e-4  # of the actor
    sigma: float = 0.6  # of each action, at first
    warm_up: int = 0  # steps in which only the critic is trained
    rounds: int = 1  # of ROUND steps, between PPO's updates
    target_kl: float | None = None  # an update ends where the policy has moved by 1.5 of this
    anneals: bool = False  # whether both learning rates fall to zero


CAREFUL = dict(learning_rate=1e-5, sigma=0.05, warm_up=WARM_UP)
# From a clone that has room to get better: one factor at a time, and all of them.
ROOM = {"Hopper-v4": 1, "Walker2d-v4": 4}  # demonstrations
FACTORS = {
    "kl": ("target_kl 0.01", "#2f9e8f", dict(target_kl=0.01)),
    "annealed": ("rates to zero", "#c0504d", dict(anneals=True)),
    "long": ("rounds of 16,384 steps", "#7b4ea3", dict(rounds=8)),
    "all": ("all three", "#000000", dict(target_kl=0.01, anneals=True, rounds=8)),
}


def recipes_of(env_id):
    num_demos = ROOM[env_id]
    recipes = {
        "scratch": Recipe("from scratch", "#6b6f76", None),
        "1": Recipe("from the clone of 1 demonstration", "#8fb1e0", 1, **CAREFUL),
        "4": Recipe("from the clone of 4 demonstrations", "#1f4e94", 4, **CAREFUL),
        "4-as-from-scratch": Recipe("from the clone of 4, settings as from scratch", "#e08a1e", 4),
    }
    for name, (what, colour, settings) in FACTORS.items():
        recipes[name] = Recipe(
            f"from the clone with room, {what}", colour, num_demos, **CAREFUL, **settings
        )
    return recipes


ROWS = {name: Row("bc_gaussian", study=f"finetune {name}") for name in recipes_of(ENV_IDS[0])}


def make_ppo(env_id, seed, recipe):
    """PPO with networks of the clone's shape. Observations and rewards are standardised."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    policy_kwargs = dict(
        net_arch=dict(pi=[256, 256], vf=[256, 256]),
        activation_fn=torch.nn.GELU,
        log_std_init=np.log(recipe.sigma),
    )
    ppo = PPO(
        "MlpPolicy",
        VecNormalize(make_vec_env(env_id, NUM_ENVS)),
        n_steps=recipe.rounds * ROUND // NUM_ENVS,
        batch_size=256,
        target_kl=recipe.target_kl,
        policy_kwargs=policy_kwargs,
        seed=1_000_000 * seed + 600_000,  # of the environments too
        device="cpu",
    )
    actor, critic = parameters(ppo)
    rates = [recipe.learning_rate, CRITIC_LEARNING_RATE]
    groups = [{"params": actor, "lr": rates[0]}, {"params": critic, "lr": rates[1]}]
    ppo.policy.optimizer = torch.optim.Adam(groups, eps=1e-5)

    def update_learning_rate(optimizer):
        """In place of PPO's own, which gives both the same."""
        share = ppo._current_progress_remaining if recipe.anneals else 1.0
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = share * rate

    ppo._update_learning_rate = update_learning_rate
    return ppo


def parameters(ppo):
    """Those of the actor, and those of the critic."""
    policy = ppo.policy
    layers = policy.mlp_extractor
    actor = [*layers.policy_net.parameters(), *policy.action_net.parameters(), policy.log_std]
    critic = [*layers.value_net.parameters(), *policy.value_net.parameters()]
    return actor, critic


@torch.no_grad()
def start_from(ppo, clone):
    """The clone's mean as PPO's actor.

    PPO's environments standardise observations by the clone's statistics, which stay (with its
    bound of 10, which is theirs too). The statistics of the actions go into the last layer.
    """
    statistics = ppo.env.obs_rms
    statistics.mean = clone.obs_mean.double().numpy()
    statistics.var = clone.obs_std.double().numpy() ** 2
    statistics.count = 1e15  # as if from so many observations: more change nothing

    policy = ppo.policy
    first, middle, last = (layer for layer in clone.net if hasattr(layer, "weight"))
    policy.mlp_extractor.policy_net[0].load_state_dict(first.state_dict())
    policy.mlp_extractor.policy_net[2].load_state_dict(middle.state_dict())
    act_dim = len(clone.action_std)
    scale = clone.action_std
    policy.action_net.weight.copy_(scale[:, None] * last.weight[:act_dim])
    policy.action_net.bias.copy_(clone.action_mean + scale * last.bias[:act_dim])


def train_actor(ppo, is_trained):
    """Whether PPO's updates change the actor, or the critic alone."""
    actor, _ = parameters(ppo)
    for parameter in actor:
        parameter.requires_grad_(is_trained)


def act(ppo, obs):
    """Without exploration: obs (N, obs_dim) to actions (N, act_dim), bounded."""
    actions, _ = ppo.predict(ppo.env.normalize_obs(obs), deterministic=True)
    return actions


def evaluate(ppo, envs, seed):
    """Mean return without exploration."""
    import bc_gaussian

    first = 1_000_000 * seed + 800_000
    episodes = bc_gaussian.rollout(envs, lambda obs: act(ppo, obs), EVAL_EPISODES, first)
    return float(np.mean([episode.rewards.sum() for episode in episodes]))


def learn(ppo, warm_up, evaluate_now):
    """Train; a list of [steps, what `evaluate_now` returned, return with exploration].

    The last is the mean of the last 100 episodes of the training, None before the first.
    """
    from stable_baselines3.common.callbacks import BaseCallback

    curve = []

    def look():
        explored = [episode["r"] for episode in ppo.ep_info_buffer]
        explored_mean = float(np.mean(explored)) if explored else None
        curve.append([ppo.num_timesteps, evaluate_now(), explored_mean])

    class Watch(BaseCallback):
        def _on_rollout_start(self):
            if self.num_timesteps >= len(curve) * EVAL_EVERY:
                look()
            train_actor(ppo, self.num_timesteps >= warm_up)

        def _on_step(self):
            return True

    ppo.learn(NUM_STEPS, callback=Watch())
    look()
    return curve


def measure(env_id, row, seed):
    """In a worker: clone, then PPO; the results, and a line."""
    import bc_gaussian

    start = time.time()
    torch.set_num_threads(1)
    recipe = recipes_of(env_id)[row.study.split()[1]]
    ppo = make_ppo(env_id, seed, recipe)
    envs = bc_gaussian.make_envs(bc_gaussian.Args(env_id=env_id), EVAL_EPISODES)
    if recipe.num_demos is not None:
        flags = f"--num-demos {recipe.num_demos} {FEW_EVALUATIONS}"
        clone, _ = trained(env_id, Row("bc_gaussian", flags), seed)
        start_from(ppo, clone)

    curve = learn(ppo, recipe.warm_up, lambda: evaluate(ppo, envs, seed))
    seconds = time.time() - start
    measured = {"env_id": env_id, "row": str(row), "seed": seed, "curve": curve, "seconds": seconds}
    line = f"{row} on {env_id}, seed {seed}: {curve[0][1]:.0f} to {curve[-1][1]:.0f}"
    return measured, f"{line}; {seconds:.0f} s"


def curves_of(env_id, name):
    """Steps (T,), and normalised returns without and with exploration, each (seeds, T)."""
    curves = [result["curve"] for result in results_of(env_id, ROWS[name], SEEDS)]
    if not curves:
        return np.empty(0), np.empty((0, 0)), np.empty((0, 0))
    curves = np.array(curves, dtype=float)  # NaN where there is none
    return curves[0, :, 0], normalised(env_id, curves[:, :, 1]), normalised(env_id, curves[:, :, 2])


def main(args):
    cells = [(env_id, row, seed) for seed in SEEDS for env_id in ENV_IDS for row in ROWS.values()]
    failed = [] if args.only_draw else run_missing(cells, args, measure)

    size = (9, 6.6)
    figure, axes = plt.subplots(2, 2, figsize=size, sharex=True, sharey=True, layout="constrained")
    for column, env_id in zip(axes.T, ENV_IDS, strict=True):
        for name, recipe in recipes_of(env_id).items():
            steps, *both = curves_of(env_id, name)
            for axis, curves in zip(column, both, strict=True):
                if not len(curves):
                    continue
                axis.plot(
                    steps / 1000, curves.mean(axis=0), color=recipe.colour, label=recipe.label
                )
                lowest, highest = curves.min(axis=0), curves.max(axis=0)
                axis.fill_between(steps / 1000, lowest, highest, color=recipe.colour, alpha=0.15)
        column[0].set_title(env_id)
        column[1].set_xlabel("environment steps in thousands")
    for axis in axes.flat:
        axis.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axis.axvspan(0, WARM_UP / 1000, color="black", alpha=0.05, linewidth=0)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("return, the expert's is 1")
    axes[1, 0].set_ylabel("return with exploration")
    entries = axes[0, 0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(ROOT / "benchmark" / "figures" / "finetune.png", dpi=130)
    sys.exit(len(failed) > 0)


if __name__ == "__main__":
    main(tyro.cli(StudyArgs, description=__doc__))
