"""Write an expert's demonstrations as a Minari data set, for `--dataset` or for other code.

    pip install 'minari[create,hdf5]'
    python -m experts.record --env-id Hopper-v4 --episodes 20 --dataset-id hopper/expert-v0

With `--run` it is the episodes of the rounds that a person drove, in a run of
`hg_dagger.py --gate human`. Their infos hold `by_person` (T + 1,): entry t + 1 says whether the
person chose action t, or the novice did.

    python -m experts.record --run runs/LaneChange-v0__hg_dagger__0__1795713267 --dataset-id me-v0

Minari keeps it in the directory that the variable MINARI_DATASETS_PATH names, otherwise in
~/.minari/datasets.
"""

import json
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import tyro
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from experts import load_expert


@dataclass
class Args:
    env_id: str = "Hopper-v4"  # any Gymnasium id, module:Env-v0 included
    dataset_id: str = "hopper/expert-v0"  # [namespace/]name-v<number>
    episodes: int = 20  # whole episodes to record
    seed: int = 0  # of the first episode and of the expert
    max_episode_steps: int | None = None  # None: the environment's own limit
    expert: str | None = None  # your own expert, as module:callable
    run: str | None = None  # in place of an expert: a run of hg_dagger.py with --gate human

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


def record_expert(minari, args):
    """Play episodes, and write them as a data set."""
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
    dataset = collector.create_dataset(args.dataset_id, algorithm_name="expert")
    collector.close()
    return dataset


def record_run(minari, args):
    """Write the episodes of the rounds of a run, in which a person drove, as a data set."""
    try:
        with safe_open(Path(args.run) / "state.safetensors", framework="np") as file:
            run_args = json.loads(file.metadata()["metadata"])["args"]
        paths = sorted(Path(args.run).glob("episodes_*/*.safetensors"))
        episodes = [load_file(path) for path in paths]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        fail(f"--run {args.run} is not a run of hg_dagger.py: {error}")
    if not episodes:
        fail(f"--run {args.run} has no episodes of a person; it needs --gate human")

    buffers = []
    for number, episode in enumerate(episodes):
        truncated = episode["truncated"]
        truncated[-1] |= not episode["terminated"][-1]  # also where the person ended it
        buffer = minari.data_collector.EpisodeBuffer(
            id=number,
            observations=episode["obs"],
            actions=episode["actions"],
            rewards=episode["rewards"].tolist(),
            terminations=episode["terminated"].tolist(),
            truncations=truncated.tolist(),
            infos={"by_person": np.concatenate([[False], episode["by_person"]])},
        )
        buffers.append(buffer)
    limit = run_args["max_episode_steps"]
    env = make_env(replace(args, env_id=run_args["env_id"], max_episode_steps=limit))
    return minari.create_dataset_from_buffers(
        args.dataset_id, buffers, env=env, algorithm_name="a person and hg_dagger.py"
    )


def main(args):
    torch.set_num_threads(1)  # as in the scripts
    minari = import_minari()
    check_dataset_id(minari, args.dataset_id)
    with warnings.catch_warnings():
        # A local data set needs no author and no link to code.
        warnings.filterwarnings("ignore", module="minari")
        record = record_run if args.run else record_expert
        dataset = record(minari, args)
    print(f"{dataset.id}: {dataset.total_episodes} episodes, {dataset.total_steps:,} steps")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
