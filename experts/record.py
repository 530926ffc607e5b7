"""Write an expert's demonstrations as a Minari data set, for `--dataset` or for other code.

    pip install 'minari[create,hdf5]'
    python -m experts.record --env-id Hopper-v4 --episodes 20 --dataset-id hopper/expert-v0

Minari keeps it in the directory that the variable MINARI_DATASETS_PATH names, otherwise in
~/.minari/datasets.
"""

import sys
import warnings
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch
import tyro

from experts import load_expert


@dataclass
class Args:
    env_id: str = "Hopper-v4"  # any Gymnasium id, module:Env-v0 included
    dataset_id: str = "hopper/expert-v0"  # [namespace/]name-v<number>
    episodes: int = 20  # whole episodes to record
    seed: int = 0  # of the first episode and of the expert
    max_episode_steps: int | None = None  # None: the environment's own limit
    expert: str | None = None  # your own expert, as module:callable

    def __post_init__(self):  # tyro shows what is raised here as a usage error
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, not {self.episodes}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, not {self.seed}")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ValueError(f"max_episode_steps must be at least 1, not {self.max_episode_steps}")


def fail(message):
    """Refuse wrong input: the message on standard error, exit status 2."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def import_minari():
    try:
        import h5py  # noqa: F401
        import jax  # noqa: F401  # Minari itself asks for it only when the first step is recorded
        import minari
    except ImportError as error:
        fail(f"recording needs Minari ({error}): pip install 'minari[create,hdf5]'")
    return minari


def check_dataset_id(minari, dataset_id):
    """Refuse, before anything is played, an id that Minari would refuse at the end."""
    try:
        minari.dataset.minari_dataset.parse_dataset_id(dataset_id)
    except (TypeError, ValueError):
        fail(
            f"--dataset-id {dataset_id} does not have the form [namespace/]name-v<number>, "
            "with at least two letters in the namespace"
        )
    try:
        path = minari.storage.get_dataset_path(dataset_id)
    except OSError as error:
        fail(f"MINARI_DATASETS_PATH cannot be written: {error}")
    if path.exists():
        fail(f"--dataset-id {dataset_id} exists already, in {path}; choose another one")


def make_env(args):
    try:
        env = gym.make(args.env_id, max_episode_steps=args.max_episode_steps)
    except (gym.error.Error, ImportError) as error:
        fail(f"--env-id {args.env_id} cannot be made: {error}")
    obs_space = env.observation_space
    if not isinstance(obs_space, gym.spaces.Box) or len(obs_space.shape) != 1:
        fail(f"--env-id {args.env_id} has observations {obs_space}; a flat Box is needed")
    if not isinstance(env.spec.entry_point, str):
        fail(f"--env-id {args.env_id} is registered with a class; Minari needs 'module:Class'")
    if env.spec.max_episode_steps is None:
        fail(f"--env-id {args.env_id} does not limit its episodes; give --max-episode-steps")
    return env


def main(args):
    torch.set_num_threads(1)  # as in the scripts
    minari = import_minari()
    check_dataset_id(minari, args.dataset_id)
    env = make_env(args)
    try:
        expert = load_expert(args.env_id, args.expert, args.seed)
    except gym.error.Error as error:
        fail(error)

    collector = minari.DataCollector(env)
    for k in range(args.episodes):
        obs, _ = collector.reset(seed=args.seed + k)
        done = False
        while not done:
            actions = np.array(expert(np.array(obs)[None]))  # copies, as in the scripts
            action = actions[0].astype(env.action_space.dtype)
            if action not in env.action_space:
                fail(f"the action {action} of the expert is not in {env.action_space}")
            obs, _, terminated, truncated, _ = collector.step(action)
            done = terminated or truncated

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a local data set needs no author and no link to code
        dataset = collector.create_dataset(args.dataset_id, algorithm_name="expert")
    collector.close()
    print(f"{dataset.id}: {dataset.total_episodes} episodes, {dataset.total_steps:,} steps")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
