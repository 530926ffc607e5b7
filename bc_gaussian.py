"""Behaviour cloning with a Gaussian: a mean and a standard deviation for each state, one mode.

    pi(a|s) = N(a; mu(s), diag sigma(s)^2)                                              (1)
    L = E_(s, a)[-log pi(a|s)]                                                          (2)

s is the observation and a the expert's action. Nix & Weigend, "Estimating the Mean and Variance of
the Target Probability Distribution", ICNN 1994 (https://doi.org/10.1109/ICNN.1994.374138). Between
two modes mu is as wrong as with squared loss, and sigma covers both. The loss may be negative.

Differences from the paper:
- mu and sigma share all hidden layers and are trained together from the start.
- Actions are standardised. sigma has a floor: a deterministic expert would drive it to zero.
- AdamW; the learning rate warms up and then falls to zero. The last policy is kept.

At test time `act` returns mu(s), or with --stochastic a draw from (1), clipped to the bounds.

    python bc_gaussian.py --env-id Hopper-v4  # return 3720, std 23 over 5 seeds
"""

import json
import math
import sys
import time
from collections import Counter, namedtuple
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import tyro
from gymnasium.utils.save_video import save_video
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import load_expert


@dataclass
class Args:
    # --- Task and demonstrations ---
    env_id: str = "Hopper-v4"  # any Gymnasium id, module:Env-v0 included
    num_envs: int = 25  # environments stepped together
    max_episode_steps: int | None = None  # None: the environment's own limit
    num_demos: int = 10  # expert episodes to learn from, plus 10% held out
    expert: str | None = None  # your own expert, as module:callable
    dataset: str | None = None  # a local Minari data set, in place of an expert
    # --- Training ---
    seed: int = 0  # of demonstrations, network, batches and evaluation
    num_updates: int = 20_000  # gradient steps
    batch_size: int = 256  # transitions in a gradient step
    learning_rate: float = 1e-3  # at its peak, after a linear warm-up; then cosine to 0
    hidden_dim: int = 256  # width of the hidden layers
    device: Literal["cpu", "cuda"] = "cpu"  # cuda is faster for much larger networks only
    # --- Evaluation and output ---
    eval_every: int = 10_000  # updates between evaluations, one episode per environment
    eval_episodes: int = 50  # episodes of the final evaluation
    capture_video: bool = False  # record three episodes of the final policy
    checkpoint: str | None = None  # evaluate this policy.safetensors, without training
    run_dir: str = "runs"  # each run makes its own directory in here
    # --- Gaussian ---
    min_std: float = 0.3  # floor of sigma, in standard deviations of the demonstrated actions
    stochastic: bool = False  # act by a draw from the Gaussian, not by its mean

    def __post_init__(self):  # tyro shows what is raised here as a usage error
        for name, value in vars(self).items():
            if type(value) in (int, float) and name != "seed" and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite")


class Policy(nn.Module):
    """pi(a|s). Statistics of the demonstrations are buffers, and saved with the weights."""

    def __init__(self, obs_space, action_space, args):
        super().__init__()
        self.action_space = action_space
        obs_dim = obs_space.shape[0]
        act_dim = action_space.shape[0]
        self.stochastic = args.stochastic
        self.net = nn.Sequential(
            nn.Linear(obs_dim, args.hidden_dim),
            nn.GELU(),
            nn.Linear(args.hidden_dim, args.hidden_dim),
            nn.GELU(),
            nn.Linear(args.hidden_dim, 2 * act_dim),  # mu and sigma
        )
        self.register_buffer("min_std", torch.tensor(args.min_std))
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.register_buffer("action_mean", torch.zeros(act_dim))
        self.register_buffer("action_std", torch.ones(act_dim))

    def set_statistics(self, obs, actions):
        self.obs_mean, self.obs_std = mean_and_std(obs)
        self.action_mean, self.action_std = mean_and_std(actions)

    def forward(self, obs):
        """The Gaussian over standardised actions: mu (B, act_dim), sigma (B, act_dim)."""
        # An input that hardly varies in the demonstrations can be huge in the policy's own states.
        obs = ((obs - self.obs_mean) / self.obs_std).clamp(-10, 10)
        mu, raw_sigma = self.net(obs).chunk(2, dim=-1)
        return mu, self.min_std + F.softplus(raw_sigma)

    def log_prob(self, obs, actions):
        """log pi(a|s) (B,) in nats, for actions (B, act_dim) in the environment's units."""
        mu, sigma = self(obs)
        z = ((actions - self.action_mean) / self.action_std - mu) / sigma
        log_normal = -0.5 * z.square() - sigma.log() - 0.5 * math.log(2 * math.pi)  # (1)
        return (log_normal - self.action_std.log()).sum(-1)

    def loss(self, obs, actions):
        return -self.log_prob(obs, actions).mean()  # (2)

    @torch.inference_mode()
    def act(self, obs):
        """Like an expert, from numpy to numpy: obs (N, obs_dim) to actions (N, act_dim)."""
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        mu, sigma = self(obs)
        standardised = torch.normal(mu, sigma) if self.stochastic else mu
        actions = self.action_mean + self.action_std * standardised
        return actions.cpu().numpy().clip(self.action_space.low, self.action_space.high)


def mean_and_std(x):
    """For standardising x (M, dim). Constant dimensions keep scale 1."""
    x = x.double()
    std = x.std(0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    return x.mean(0).float(), std.float()


def train(args, policy, demos, held_out, envs, writer):
    """Fit the policy to the demonstrations, and log its progress."""
    obs, actions = to_tensors(demos, args.device)
    held_out = [x[:10_000] for x in to_tensors(held_out, args.device)]  # for memory
    policy.set_statistics(obs, actions)
    optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=0.01, fused=True)

    progress = tqdm(range(1, args.num_updates + 1), unit=" updates", disable=None)
    for update in progress:
        # The rate falls to zero, and with it the noise of the batches: the last policy can be kept.
        fraction = update / args.num_updates
        warm_up = fraction / 0.05
        cosine = 0.5 * (1 + math.cos(math.pi * fraction))
        optimizer.param_groups[0]["lr"] = args.learning_rate * min(warm_up, cosine)
        batch = torch.randint(len(obs), (args.batch_size,), device=args.device)
        loss = policy.loss(obs[batch], actions[batch])
        if not loss.isfinite():
            raise gym.error.Error(f"the loss is {loss}; lower --learning-rate")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        if update % 500 == 0:
            with torch.no_grad():
                writer.add_scalar("loss/held_out", policy.loss(*held_out), update)
            writer.add_scalar("loss/train", loss, update)
            progress.set_description(f"loss {loss:.3f}", refresh=False)
        if update % args.eval_every == 0 and update < args.num_updates:
            return_mean = evaluate(args, envs, policy, len(envs))["return_mean"]
            writer.add_scalar("eval/return", return_mean, update)
            progress.set_postfix(last_return=f"{return_mean:.2f}")


def make_envs(args, num_envs, **kwargs):
    """A list of environments with flat, continuous observations and actions."""
    kwargs["max_episode_steps"] = args.max_episode_steps
    envs = [gym.make(args.env_id, **kwargs) for _ in range(num_envs)]
    for space in (envs[0].observation_space, envs[0].action_space):
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise gym.error.Error(f"{args.env_id} has a space {space}; a flat Box is needed")
    if envs[0].spec.max_episode_steps is None:
        raise gym.error.Error(f"{args.env_id} has no time limit; give --max-episode-steps")
    return envs


Episode = namedtuple("Episode", "obs actions rewards info")


def rollout(envs, act, num_episodes, seed):
    """Play whole episodes, one per environment at a time, with the seeds seed, seed + 1, ..."""
    episodes = []
    progress = tqdm(total=num_episodes, unit=" episodes", leave=False, disable=None)
    while len(episodes) < num_episodes:
        first = len(episodes)
        starts = [env.reset(seed=seed + first + n)[0] for n, env in enumerate(envs)]
        obs = np.stack(starts, dtype=envs[0].observation_space.dtype)
        running = first + np.arange(len(envs)) < num_episodes
        steps = [[] for _ in envs]
        infos = [{} for _ in envs]
        while running.any():
            # Copies, in case an expert reuses its arrays or an environment changes its action.
            actions = np.array(act(obs.copy()))
            for n, action in zip(np.flatnonzero(running), actions[running], strict=True):
                next_obs, reward, terminated, truncated, infos[n] = envs[n].step(action.copy())
                steps[n].append((obs[n].copy(), action, reward))
                obs[n] = next_obs
                if terminated or truncated:
                    running[n] = False
                    progress.update()
        for episode, info in zip(steps, infos, strict=True):
            if episode:  # the last batch may need fewer environments
                columns = zip(*episode, strict=True)
                episodes.append(Episode(*map(np.array, columns), dict(info)))
    return episodes


def collect_demonstrations(args):
    """Whole episodes of the expert or of a local Minari data set: to learn from, and held out."""
    num_episodes = args.num_demos + math.ceil(args.num_demos / 10)
    envs = make_envs(args, min(args.num_envs, num_episodes))
    if args.dataset is not None:
        import minari  # pip install 'minari[hdf5]'

        dataset = minari.load_dataset(args.dataset)
        if dataset.env_spec is not None and dataset.env_spec.id != envs[0].spec.id:
            gym.logger.warn(f"{args.dataset} was recorded in {dataset.env_spec.id}")
        recorded = dataset.iterate_episodes(range(num_episodes))
        episodes = [Episode(e.observations[:-1], e.actions, e.rewards, {}) for e in recorded]
    else:
        expert = load_expert(args.env_id, args.expert, 1_000_000 * args.seed + 700_000)
        episodes = rollout(envs, expert, num_episodes, 1_000_000 * args.seed)
    for episode in episodes:
        check(envs[0].action_space, episode.obs, episode.actions)
    return episodes[: args.num_demos], episodes[args.num_demos :]


def check(space, obs, actions):
    """Refuse data that would train without an error: wrong pairs, NaN, actions out of bounds."""
    actions = actions.astype(space.dtype, casting="same_kind")  # refuses floats for integers
    if actions.shape != (len(obs), *space.shape):
        raise gym.error.Error(f"{len(obs)} observations have actions of shape {actions.shape}")
    finite = np.isfinite(obs).all() and np.isfinite(actions).all()
    if not finite or actions.min(0) not in space or actions.max(0) not in space:
        raise gym.error.Error(f"observations and actions must be finite, and actions in {space}")


def to_tensors(episodes, device):
    """Concatenated observations (M, obs_dim) and actions (M, act_dim)."""
    obs = np.concatenate([episode.obs for episode in episodes])
    actions = np.concatenate([episode.actions for episode in episodes])
    return [torch.tensor(x, dtype=torch.float32, device=device) for x in (obs, actions)]


def evaluate(args, envs, policy, num_episodes):
    """Returns, and if the environment reports them the success rate and the modes of successes."""
    # Seeds: 1_000_000 * args.seed for demonstrations, + 500_000 here, + 700_000 for the expert.
    with torch.random.fork_rng():  # draws of its own, which disturb no training
        torch.manual_seed(args.seed)
        episodes = rollout(envs, policy.act, num_episodes, 1_000_000 * args.seed + 500_000)
    returns = [float(episode.rewards.sum()) for episode in episodes]
    results = {
        "eval_returns": returns,
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
    }
    if any("is_success" in episode.info for episode in episodes):
        successes = [episode.info for episode in episodes if episode.info.get("is_success")]
        results["success_rate"] = len(successes) / num_episodes
        results["modes"] = Counter(str(info["mode"]) for info in successes if "mode" in info)
    return results


def record_videos(args, policy, folder):
    """Three episodes, from the first starts of the evaluation."""
    envs = make_envs(args, 1, render_mode="rgb_array_list")
    fps = envs[0].metadata.get("render_fps", 30)
    for number in range(3):
        rollout(envs, policy.act, 1, 1_000_000 * args.seed + 500_000 + number)
        frames = envs[0].render()  # all since the start of the episode
        save_video(frames, str(folder), lambda _: True, fps=fps, episode_index=number)
    envs[0].close()


def main(args):
    start = time.time()
    torch.set_num_threads(1)  # for networks of this size, more threads are slower
    torch.manual_seed(args.seed)
    envs = make_envs(args, min(args.num_envs, args.eval_episodes))
    policy = Policy(envs[0].observation_space, envs[0].action_space, args).to(args.device)
    results = {"algorithm": Path(__file__).stem, "args": asdict(args)}
    name = f"{args.env_id}__{results['algorithm']}__{args.seed}__{time.time_ns() // 1_000_000}"
    run = Path(args.run_dir) / name.replace(":", "-").replace("/", "-")
    if args.checkpoint is not None:
        policy.load_state_dict(load_file(args.checkpoint))
    else:
        demos, held_out = collect_demonstrations(args)
        results["expert_return"] = float(np.mean([demo.rewards.sum() for demo in demos]))
        results["expert_labels"] = sum(len(demo.obs) for demo in demos)

    run.mkdir(parents=True)
    writer = SummaryWriter(run)
    if args.checkpoint is None:
        train(args, policy, demos, held_out, envs, writer)
        save_file(policy.state_dict(), run / "policy.safetensors")

    results |= evaluate(args, envs, policy, args.eval_episodes)
    results["seconds"] = time.time() - start
    writer.add_scalar("eval/return", results["return_mean"], args.num_updates)
    writer.close()
    (run / "results.json").write_text(json.dumps(results, indent=2, allow_nan=False))
    score = f"return {results['return_mean']:.2f} ± {results['return_std']:.2f} between episodes"
    if "success_rate" in results:
        score += f", success {results['success_rate']:.1%}"
    print(f"{score}; {results['seconds']:.0f} s; {run}")
    if args.capture_video:
        record_videos(args, policy, run / "videos")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except gym.error.Error as error:
        sys.exit(f"error: {error}")
