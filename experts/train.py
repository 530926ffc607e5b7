"""Train an expert with Stable-Baselines3's JAX sibling, for `weights/<env_id>.safetensors`.

    pip install -r requirements-experts.txt
    JAX_PLATFORMS=cpu taskset -c 0 python -m experts.train --env-id Hopper-v4 --seed 1

PPO with many steps is the cheap recipe. Where it is not enough, an off-policy algorithm makes more
of each step, and a random search over linear policies (ARS) learns from the undiscounted return of
whole episodes. The learning rate and PPO's entropy bonus fall linearly to zero, in steps of
`checkpoint_every`. After each of these the actor is exported to `work_dir` and plays ten episodes.

At the end the best five by that brief evaluation play 100 episodes each (Ant 300), on other seeds;
the one with the best mean minus standard deviation is shipped. Its recorded return comes from 100
further episodes, again on other seeds.

A run that was stopped continues with the same command, and a finished one with more
`--total-steps`, perhaps in a harder variant of the environment. Its state is in Stable-Baselines3's
own format, a pickle: continue only your own.
"""

import json
import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault(  # before JAX is imported
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import gymnasium as gym
import numpy as np
import torch
import tyro
from gymnasium.wrappers import TransformAction, TransformObservation
from safetensors.numpy import save_file
from sb3_contrib import ARS
from sbx import PPO, TQC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import bc_autoregressive
from experts import WEIGHTS, NeuralExpert

DEFAULT = dict(
    algorithm=PPO,
    n_envs=16,
    n_steps=512,
    batch_size=512,
    n_epochs=10,
    learning_rate=3e-4,
    gamma=0.99,
    gae_lambda=0.95,
    ent_coef=0.0,
    policy_kwargs=dict(net_arch=[128, 128], log_std_init=-0.5),
    total_steps=10_000_000,
    checkpoint_every=250_000,
)
OFF_POLICY = dict(
    algorithm=TQC,
    n_envs=4,
    train_freq=4,
    gradient_steps=16,
    batch_size=128,
    learning_starts=10_000,
    gamma=0.98,
    tau=0.02,
    learning_rate=7e-4,
    policy_kwargs=dict(net_arch=[128, 128]),
    total_steps=500_000,
    checkpoint_every=50_000,
)
LANDER = DEFAULT | dict(
    gamma=0.999, gae_lambda=0.98, total_steps=2_000_000, checkpoint_every=100_000
)
HUMANOID = OFF_POLICY | dict(
    n_envs=8,
    gradient_steps=8,
    gamma=0.99,
    tau=0.005,
    learning_rate=4e-4,
    policy_kwargs=dict(net_arch=[256, 256], layer_norm=True),
    total_steps=2_600_000,
    checkpoint_every=100_000,
    first_observations=45,  # of 376: positions and velocities, the whole state
)
SEARCH = dict(
    algorithm=ARS,
    n_envs=1,
    n_delta=2,
    learning_rate=0.02,
    delta_std=0.01,
    total_steps=1_000_000,
    checkpoint_every=50_000,
)
RECIPES = {
    # The entropy bonus keeps the policy exploring; without it the gait settles early, below 3,500.
    "Hopper-v4": DEFAULT | dict(ent_coef=0.01, total_steps=2_500_000),
    "Walker2d-v4": DEFAULT | dict(total_steps=5_000_000),
    "Walker2d-v5": DEFAULT | dict(total_steps=5_000_000),
    # Without the bonus: below 10,200.
    "HalfCheetah-v4": DEFAULT | dict(ent_coef=0.005, total_steps=20_000_000),
    # Then 6 million more steps in harder variants (see its command): before them, some of a hundred
    # episodes end in a fall.
    "Ant-v4": DEFAULT | dict(ent_coef=0.005, total_steps=8_000_000, selection_episodes=300),
    "Humanoid-v4": HUMANOID,
    "InvertedPendulum-v4": DEFAULT
    | dict(n_steps=128, total_steps=500_000, checkpoint_every=50_000),
    # Short episodes in training, for many starts: with episodes of a thousand steps, one start in a
    # hundred was never learned.
    "InvertedDoublePendulum-v4": DEFAULT
    | dict(env_kwargs=dict(max_episode_steps=100), total_steps=1_500_000, checkpoint_every=100_000),
    "Reacher-v4": DEFAULT | dict(total_steps=2_000_000, checkpoint_every=100_000),
    "Acrobot-v1": DEFAULT | dict(n_steps=128, total_steps=1_000_000, checkpoint_every=50_000),
    "LunarLander-v3": LANDER,
    "LunarLanderContinuous-v3": LANDER,
    "BipedalWalker-v3": OFF_POLICY,
    # SAC and TD3, with a discount of 0.9999, did not get above 336. With one direction a step,
    # three of five seeds were near zero after 150,000 steps.
    "Swimmer-v4": SEARCH,
    "Pendulum-v1": DEFAULT
    | dict(
        n_steps=256,
        gamma=0.95,
        learning_rate=1e-3,
        total_steps=1_000_000,
        checkpoint_every=50_000,
    ),
    "MountainCarContinuous-v0": DEFAULT
    | dict(
        gamma=0.9999,
        # Wide exploration, or it never finds the goal.
        policy_kwargs=dict(net_arch=[128, 128], log_std_init=0.5),
        total_steps=500_000,
        checkpoint_every=50_000,
    ),
    "CartPole-v1": DEFAULT
    | dict(n_envs=8, n_steps=128, batch_size=256, total_steps=300_000, checkpoint_every=25_000),
}


@dataclass
class Args:
    env_id: str = "Hopper-v4"  # one of RECIPES
    seed: int = 0
    total_steps: int | None = None  # environment steps; None: as many as the recipe says
    env_kwargs: str = "{}"  # of the environment in training, as JSON; it is measured as registered
    action_noise: float = 0.0  # standard deviation of noise on the actions in training, for margins
    weights_of: str | None = None  # do not train: measure and ship this environment's expert
    work_dir: Path = Path("runs/experts")  # checkpoints, curve and the state from which to continue


def play(policy, env_id, num_episodes, seed):
    """Returns (num_episodes,) of whole episodes; number k starts from the seed `seed + k`."""
    envs = bc_autoregressive.make_envs(bc_autoregressive.Args(env_id=env_id), min(num_episodes, 20))
    episodes = bc_autoregressive.rollout(envs, policy, num_episodes, seed)
    return np.array([episode.rewards.sum() for episode in episodes])


def build(args, recipe, run):
    """The model with its environments: new, or as the stopped run in `run` left them."""
    recipe = dict(recipe)
    for name in ("total_steps", "checkpoint_every", "selection_episodes"):  # not the algorithm's
        recipe.pop(name, None)
    algorithm = recipe.pop("algorithm")
    first = recipe.pop("first_observations", None)
    num_envs = recipe.pop("n_envs")
    env_kwargs = recipe.pop("env_kwargs", {}) | json.loads(args.env_kwargs)
    noise = np.random.default_rng(args.seed)

    def add_noise(action):
        return action + args.action_noise * noise.standard_normal(action.shape, np.float32)

    def wrap(env):
        if first:
            low = env.observation_space.low[:first]
            high = env.observation_space.high[:first]
            space = gym.spaces.Box(low, high)
            env = TransformObservation(env, lambda obs: obs[:first].astype(np.float32), space)
        if args.action_noise:
            env = TransformAction(env, add_noise, env.action_space)
        return env

    envs = make_vec_env(args.env_id, num_envs, args.seed, env_kwargs=env_kwargs, wrapper_class=wrap)
    if not (run / "state.zip").exists():
        gamma = recipe.get("gamma", 1.0)
        envs = VecNormalize(envs, norm_reward=algorithm is PPO, gamma=gamma)
        policy = "LinearPolicy" if algorithm is ARS else "MlpPolicy"
        return algorithm(policy, envs, seed=args.seed, **recipe)

    envs = VecNormalize.load(str(run / "normalizer.pkl"), envs)
    model = algorithm.load(run / "state.zip", env=envs)
    if algorithm is TQC:
        model.load_replay_buffer(run / "replay.pkl")
    if algorithm is ARS:  # the same directions again would undo the first steps
        model.set_random_seed(args.seed + model.num_timesteps)
    return model


def export(model, path, metadata):
    """Write the actor, its observation statistics and the action bounds as one safetensors file."""
    space = model.action_space
    normalizer = model.get_env()
    tensors = {
        "obs_mean": normalizer.obs_rms.mean,
        "obs_std": np.sqrt(normalizer.obs_rms.var + normalizer.epsilon),
        "obs_clip": np.array(normalizer.clip_obs),
    }
    if isinstance(space, gym.spaces.Box):
        tensors["action_low"] = space.low
        tensors["action_high"] = space.high
    if isinstance(model, ARS):
        tensors["0.weight"] = model.policy.action_net[0].weight.detach().numpy()
        tensors["0.bias"] = np.zeros(space.shape)
    else:
        params = model.policy.actor_state.params["params"]
        # Off policy, one more layer follows, for log σ.
        for i in range(len(model.policy_kwargs["net_arch"]) + 1):
            layer = params[f"Dense_{i}"]
            tensors[f"{i}.weight"] = np.ascontiguousarray(np.asarray(layer["kernel"]).T)
            tensors[f"{i}.bias"] = np.asarray(layer["bias"])
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    save_file(tensors, path, {key: str(value) for key, value in metadata.items()})


def choose(run, env_id, num_episodes):
    """The best of the checkpoints that the last arguments made, the hours to it, all arguments."""
    curve = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    candidates = [line for line in curve if line["arguments"] == curve[-1]["arguments"]]
    candidates.sort(key=lambda line: line["mean"] - line["std"])

    scores = {}
    for candidate in candidates[-5:]:
        steps = candidate["steps"]
        expert = NeuralExpert(run / f"{steps}.safetensors")
        returns = play(expert, env_id, num_episodes, seed=20_000)
        scores[steps] = returns.mean() - returns.std()
        score = f"{returns.mean():.1f} ± {returns.std():.1f}"
        print(f"selection: {steps:,} steps: {score}", flush=True)

    best = max(scores, key=scores.get)
    lines = [line for line in curve if line["steps"] <= best]
    arguments = list(dict.fromkeys(line["arguments"] for line in lines))
    return NeuralExpert(run / f"{best}.safetensors"), round(lines[-1]["hours"], 2), arguments


def ship(expert, hours, arguments, env_id):
    """Write the weights with what 100 episodes returned, on seeds that nothing was chosen on."""
    returns = play(expert, env_id, 100, seed=10_000)
    space = gym.make(env_id).action_space
    space.seed(0)
    random = play(lambda obs: np.stack([space.sample() for _ in obs]), env_id, 100, seed=10_000)

    commands = [f"python -m experts.train --env-id {env_id} {line}" for line in arguments]
    metadata = expert.metadata | {
        "env_id": env_id,
        "return_mean": returns.mean(),
        "return_std": returns.std(),
        "return_min": returns.min(),
        "random_return": random.mean(),
        "train_hours": hours,
        "command": " && ".join(commands),
    }
    for name in ("sbx-rl", "sb3-contrib", "jax", "gymnasium", "mujoco"):
        metadata[name] = version(name)

    WEIGHTS.mkdir(exist_ok=True)
    tensors = {name: tensor.numpy() for name, tensor in expert.tensors.items()}
    metadata = {key: str(value) for key, value in metadata.items()}
    save_file(tensors, WEIGHTS / f"{env_id}.safetensors", metadata)
    score = f"{returns.mean():.1f} ± {returns.std():.1f}, min {returns.min():.1f}"
    print(f"{env_id}: {score}; {metadata['steps']} steps")


def save_state(model, run):
    """Write what a stopped run needs in order to continue."""
    model.get_env().save(str(run / "normalizer.pkl"))
    if isinstance(model, TQC):
        model.save_replay_buffer(run / "replay.pkl")
    model.save(run / "state.tmp.zip")
    (run / "state.tmp.zip").replace(run / "state.zip")


def checkpoint(model, args, run):
    """Export the actor and play ten episodes: a line of the learning curve."""
    steps = model.num_timesteps
    path = run / f"{steps}.safetensors"
    algorithm = type(model).__name__
    metadata = {"env_id": args.env_id, "algorithm": algorithm, "steps": steps, "seed": args.seed}
    export(model, path, metadata)
    returns = play(NeuralExpert(path), args.env_id, 10, seed=30_000)
    return {"steps": steps, "mean": returns.mean(), "std": returns.std(), "min": returns.min()}


def train(args, recipe, run):
    """Train to the end of the recipe, from where a stopped run left off."""
    model = build(args, recipe, run)
    start = time.time()
    hours_before = 0.0
    if model.num_timesteps:
        last_line = (run / "curve.jsonl").read_text().splitlines()[-1]
        hours_before = json.loads(last_line)["hours"]

    total_steps = args.total_steps or recipe["total_steps"]
    arguments = f"--seed {args.seed} --total-steps {total_steps}"
    if args.env_kwargs != "{}":
        arguments += f" --env-kwargs '{args.env_kwargs}'"
    if args.action_noise:
        arguments += f" --action-noise {args.action_noise}"

    while model.num_timesteps < total_steps:
        remaining = 1 - model.num_timesteps / total_steps
        learning_rate = recipe["learning_rate"] * remaining
        model.lr_schedule = lambda _, rate=learning_rate: rate
        if isinstance(model, PPO):
            model.ent_coef = recipe["ent_coef"] * remaining
        model.learn(recipe["checkpoint_every"], reset_num_timesteps=False)

        line = checkpoint(model, args, run)
        line["arguments"] = arguments
        line["hours"] = hours_before + (time.time() - start) / 3600
        with open(run / "curve.jsonl", "a") as file:
            file.write(json.dumps(line) + "\n")
        score = f"{line['mean']:.1f} ± {line['std']:.1f}"
        print(f"{line['steps']:>11,} steps: {score}, {line['hours']:.2f} hours", flush=True)
        save_state(model, run)


def main(args):
    torch.set_num_threads(1)
    if args.weights_of:
        expert = NeuralExpert(WEIGHTS / f"{args.weights_of}.safetensors")
        hours = expert.metadata["train_hours"]
        ship(expert, hours, [f"--weights-of {args.weights_of}"], args.env_id)
        return

    recipe = RECIPES[args.env_id]
    run = args.work_dir / f"{args.env_id}__{args.seed}"
    run.mkdir(parents=True, exist_ok=True)
    train(args, recipe, run)
    num_episodes = recipe.get("selection_episodes", 100)
    expert, hours, arguments = choose(run, args.env_id, num_episodes)
    ship(expert, hours, arguments, args.env_id)


if __name__ == "__main__":
    main(tyro.cli(Args))
