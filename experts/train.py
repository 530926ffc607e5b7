"""Train an expert with Stable-Baselines3's JAX sibling and write its actor to `experts/weights/<env_id>.safetensors`.

    pip install -r requirements-experts.txt
    JAX_PLATFORMS=cpu taskset -c 0 python -m experts.train --env-id Walker2d-v4

Every `checkpoint_every` steps the actor is exported to `work_dir` and evaluated briefly. At the end the best few by
that brief evaluation play 100 episodes each, on seeds of their own; the one with the best mean minus standard
deviation is shipped, and its recorded return comes from 100 further episodes on other seeds. A run that was stopped
continues with the same command. Its state is in Stable-Baselines3's own format, a pickle: continue only your own.
"""

import dataclasses
import json
import os
import time
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")

import gymnasium as gym
import numpy as np
import sbx
import torch
import tyro
from flax import linen
from safetensors.numpy import save_file
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from experts import WEIGHTS, NeuralExpert, play

PPO = dict(
    n_envs=16, n_steps=512, batch_size=512, n_epochs=10, learning_rate=3e-4, gamma=0.99, gae_lambda=0.95,
    net=(128, 128), log_std_init=-0.5, total_steps=10_000_000, checkpoint_every=500_000,
)  # fmt: skip
TQC = dict(
    n_envs=4, train_freq=4, gradient_steps=8, learning_rate=3e-4, gamma=0.99, net=(256, 256),
    top_quantiles_to_drop_per_net=5, learning_starts=10_000, buffer_size=500_000, total_steps=500_000,
    checkpoint_every=25_000,
)  # fmt: skip

RECIPES = {
    "Hopper-v4": ("TQC", TQC),
    "Walker2d-v4": ("PPO", PPO),
    "HalfCheetah-v4": ("PPO", PPO),
    "Ant-v4": ("PPO", PPO),
    "Humanoid-v4": ("PPO", PPO | dict(net=(256, 256))),
    "CartPole-v1": (
        "PPO",
        PPO | dict(n_envs=8, n_steps=128, batch_size=256, total_steps=300_000, checkpoint_every=25_000),
    ),
}


@dataclasses.dataclass
class Args:
    env_id: str = "Hopper-v4"  # one of RECIPES
    seed: int = 0
    total_steps: int | None = None  # environment steps; the recipe's own where not given
    work_dir: Path = Path("runs/experts")  # checkpoints, curve and the state from which to continue
    finish: bool = False  # train no further: select among the checkpoints there are, and write the weights


def export(model, normalizer, env_id, path, metadata):
    """Write the actor, its observation statistics and the action bounds as one safetensors file."""
    params = model.policy.actor_state.params["params"]
    layers = sorted((name for name in params if name.startswith("Dense")), key=lambda name: int(name.split("_")[1]))
    squashed = model.policy.squash_output
    layers = layers[:-1] if squashed else layers  # the last layer of a squashed Gaussian is its log σ
    tensors = {}
    for i, name in enumerate(layers):
        tensors[f"{i}.weight"] = np.ascontiguousarray(np.asarray(params[name]["kernel"]).T)
        tensors[f"{i}.bias"] = np.asarray(params[name]["bias"])
    space = model.action_space
    if isinstance(space, gym.spaces.Box):
        tensors |= dict(action_low=space.low, action_high=space.high)
    dim = model.observation_space.shape[0]
    if normalizer is None:
        tensors |= dict(obs_mean=np.zeros(dim), obs_std=np.ones(dim), obs_clip=np.array(np.finfo(np.float32).max))
    else:
        std = np.sqrt(normalizer.obs_rms.var + normalizer.epsilon)
        tensors |= dict(obs_mean=normalizer.obs_rms.mean, obs_std=std, obs_clip=np.array(normalizer.clip_obs))
    output = "tanh" if squashed else "clip" if isinstance(space, gym.spaces.Box) else "argmax"
    activation = "relu" if model.policy.activation_fn is linen.relu else "tanh"
    metadata = dict(env_id=env_id, activation=activation, output=output, **metadata)
    temporary = path.with_suffix(".tmp")
    save_file(
        {k: v.astype(np.float32) for k, v in tensors.items()}, temporary, {k: str(v) for k, v in metadata.items()}
    )
    temporary.replace(path)


def build(algorithm, recipe, env_id, seed, run):
    """The environments and the model: new, or as the interrupted run in `run` left them."""
    recipe = {k: v for k, v in recipe.items() if k not in ("total_steps", "checkpoint_every")}
    net, n_envs = list(recipe.pop("net")), recipe.pop("n_envs")
    policy_kwargs = dict(net_arch=net)
    if "log_std_init" in recipe:
        policy_kwargs["log_std_init"] = recipe.pop("log_std_init")
    envs, model_class = make_vec_env(env_id, n_envs, seed), getattr(sbx, algorithm)
    if algorithm == "PPO":
        saved = run / "normalizer.pkl"
        envs = VecNormalize.load(str(saved), envs) if saved.exists() else VecNormalize(envs, gamma=recipe["gamma"])
    if (run / "state.zip").exists():
        model = model_class.load(run / "state.zip", env=envs)
        if algorithm == "TQC":
            model.load_replay_buffer(run / "buffer.pkl")
    else:
        model = model_class("MlpPolicy", envs, seed=seed, policy_kwargs=policy_kwargs, **recipe)
    return model


def save_state(model, run):
    """Everything that a stopped run needs to continue; the model last, so that a half-written state is not one."""
    if isinstance(model.get_env(), VecNormalize):
        model.get_env().save(str(run / "normalizer.pkl"))
    else:
        model.save_replay_buffer(run / "buffer.pkl")
    model.save(run / "state.tmp.zip")
    (run / "state.tmp.zip").replace(run / "state.zip")


def ship(run, env_id, algorithm, seed):
    """Choose among the checkpoints by 100 episodes each and write the weights with what 100 other episodes returned."""
    curve = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    candidates = sorted({c["steps"]: c for c in curve}.values(), key=lambda c: c["mean"] - c["std"])[-5:]
    scores = {}
    for candidate in candidates:
        returns = play(NeuralExpert(run / f"{candidate['steps']}.safetensors"), env_id, 100, seed=20_000)
        scores[candidate["steps"]] = returns.mean() - returns.std()
        print(f"selection: {candidate['steps']:,} steps: {returns.mean():.1f} ± {returns.std():.1f}", flush=True)
    steps = max(scores, key=scores.get)
    expert = NeuralExpert(run / f"{steps}.safetensors")
    returns = play(expert, env_id, 100, seed=10_000)
    space = gym.make(env_id).action_space
    space.seed(0)
    random = play(lambda obs: np.stack([space.sample() for _ in obs]), env_id, 100, seed=10_000)
    metadata = expert.metadata | dict(
        return_mean=returns.mean(), return_std=returns.std(), return_min=returns.min(), return_episodes=100,
        random_return=random.mean(),
        command=f"python -m experts.train --env-id {env_id} --seed {seed} --total-steps {steps}",
        train_hours=round(next(c["hours"] for c in curve if c["steps"] == steps), 2),
        **{name: version(name) for name in ("sbx-rl", "gymnasium", "mujoco", "jax")},
    )  # fmt: skip
    WEIGHTS.mkdir(exist_ok=True)
    tensors = {name: tensor.numpy() for name, tensor in expert.tensors.items()}
    save_file(tensors, WEIGHTS / f"{env_id}.safetensors", {k: str(v) for k, v in metadata.items()})
    print(f"{env_id}: {returns.mean():.1f} ± {returns.std():.1f}, min {returns.min():.1f} at {steps:,} steps")


def main(args):
    torch.set_num_threads(1)
    algorithm, recipe = RECIPES[args.env_id]
    run = args.work_dir / f"{args.env_id}__{args.seed}"
    run.mkdir(parents=True, exist_ok=True)
    total_steps = args.total_steps or recipe["total_steps"]
    if not args.finish:
        model = build(algorithm, recipe, args.env_id, args.seed, run)
        hours = json.loads((run / "curve.jsonl").read_text().splitlines()[-1])["hours"] if model.num_timesteps else 0.0
        start = time.time() - 3600 * hours
        while model.num_timesteps < total_steps:
            # One learning rate throughout, so that learning in pieces equals learning at once.
            model.learn(recipe["checkpoint_every"], reset_num_timesteps=False)
            steps, path = model.num_timesteps, run / f"{model.num_timesteps}.safetensors"
            normalizer = model.get_env() if isinstance(model.get_env(), VecNormalize) else None
            export(model, normalizer, args.env_id, path, dict(algorithm=algorithm, steps=steps, seed=args.seed))
            expert = NeuralExpert(path)
            returns = play(expert, args.env_id, 10, seed=30_000)
            hours = (time.time() - start) / 3600
            line = dict(steps=steps, mean=returns.mean(), std=returns.std(), min=returns.min(), hours=hours)
            with open(run / "curve.jsonl", "a") as file:
                file.write(json.dumps(line) + "\n")
            print(
                f"{steps:>12,}  {returns.mean():9.1f} ± {returns.std():7.1f}  min {returns.min():9.1f}  {hours:.2f} h",
                flush=True,
            )
            save_state(model, run)
    ship(run, args.env_id, algorithm, args.seed)


if __name__ == "__main__":
    main(tyro.cli(Args))
