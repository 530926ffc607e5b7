"""Write an expert's demonstrations as a Minari data set, for `--dataset` or for anyone else's code.

    pip install 'minari[create,hdf5]'
    python -m experts.record --env-id Hopper-v4 --episodes 20 --dataset-id hopper/expert-v0

Minari keeps it where the variable MINARI_DATASETS_PATH says, in ~/.minari/datasets otherwise.
"""

import sys
import warnings
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import tyro

from experts import load_expert, make_envs


@dataclass
class Args:
    env_id: str = "Hopper-v4"
    dataset_id: str = "hopper/expert-v0"  # [namespace/]name-v<number>
    episodes: int = 20
    seed: int = 0  # of the first episode and of the expert
    expert: str | None = None  # your own expert as module:callable, in place of the shipped one


def record(args):
    """The data set, of `episodes` whole episodes, number k from the seed `seed + k`."""
    import minari

    expert = load_expert(args.env_id, args.expert, seed=args.seed)
    env = minari.DataCollector(make_envs(args.env_id, 1).envs[0])
    for k in range(args.episodes):
        (obs, _), done = env.reset(seed=args.seed + k), False
        if hasattr(expert, "reset"):
            expert.reset(np.ones(1, bool))
        while not done:
            obs, _, terminated, truncated, _ = env.step(expert(np.asarray(obs)[None])[0])
            done = terminated or truncated
    reference = {"ref_min_score": expert.random_return, "ref_max_score": expert.return_mean}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari's about authors and links that a local data set does without
        dataset = env.create_dataset(args.dataset_id, algorithm_name="expert", **reference)
    env.close()
    return dataset


def main(args):
    gym.logger.min_level = gym.logger.ERROR
    try:
        dataset = record(args)
    except (ValueError, ImportError, gym.error.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"{dataset.id}: {dataset.total_episodes} episodes, {dataset.total_steps:,} steps")


if __name__ == "__main__":
    main(tyro.cli(Args))
