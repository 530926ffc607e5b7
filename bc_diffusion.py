"""Behaviour cloning with diffusion: noise is added to actions, and a network learns to remove it.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,   eps ~ N(0, I),   t ~ U{1, ..., 50}   (1)
    L = E[clip(abar_t / (1 - abar_t), 1, 20) || x_0 - f(x_t, t, s) ||^2]                  (2)
    x0^ = clip(f(x_t, t, s), -1, 1),   eps^ = (x_t - sqrt(abar_t) x0^) / sqrt(1 - abar_t) (3)
    x_u = sqrt(abar_u) x0^ + sqrt(1 - abar_u - sigma^2) eps^ + sigma z,   u < t,          (4)
        sigma^2 = (1 - abar_u) / (1 - abar_t) (1 - abar_t / abar_u) for DDPM, 0 for DDIM

s is the observation, x_0 the expert's actions scaled to [-1, 1], f the network, z ~ N(0, I). t = 0
is data and t = 50 is noise (in bc_flow.py t = 0 is noise). Chi et al., "Diffusion Policy", 2023
(https://arxiv.org/abs/2303.04137). abar is the squared-cosine schedule of Nichol & Dhariwal, 2021
(https://arxiv.org/abs/2102.09672). The sampler (4) is DDIM (Song et al., 2021,
https://arxiv.org/abs/2010.02502) or DDPM (Ho et al., 2020, https://arxiv.org/abs/2006.11239). The
weight in (2), the signal-to-noise ratio, is bounded below as in Salimans & Ho, 2022
(https://arxiv.org/abs/2202.00512), and above as in Hang et al., 2023
(https://arxiv.org/abs/2303.09556), who use 5.

Differences from Chi et al.:
- Chunks of actions are off by default (receding horizon: --horizon 16 --action-horizon 8).
- The network is an MLP that sees one observation, and sqrt(abar_t), sqrt(1 - abar_t) for t.
- f predicts x_0. With --predict-noise it predicts eps, as theirs does: then the loss is the plain
  squared error, and x0^ in (3) is clip((x_t - sqrt(1 - abar_t) f) / sqrt(abar_t), -1, 1).
- 50 steps in training. 16 at test time, denser where there is little noise:
  50, 44, 39, 34, 29, 24, 20, 16, 13, 10, 8, 5, 4, 3, 2, 1, 0.
- No moving average of the weights: the learning rate falls to zero instead.

At test time (4) draws `horizon` actions; `act` executes the first `action_horizon`, clipped.

    python bc_diffusion.py --env-id Hopper-v4  # return 3737, std 8 over 5 seeds
"""

import json
import math
import sys
import time
from collections import Counter, deque, namedtuple
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
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
    # --- Diffusion ---
    num_diffusion_steps: int = 50  # in training
    num_inference_steps: int = 16  # at test time
    sampler: Literal["ddim", "ddpm"] = "ddim"  # ddpm adds noise in each step
    predict_noise: bool = False  # predict eps, as in the paper, instead of x_0
    horizon: int = 1  # actions in a chunk
    action_horizon: int = 1  # actions executed before the next chunk is drawn

    def __post_init__(self):  # tyro shows what is raised here as a usage error
        for name, value in vars(self).items():
            if type(value) in (int, float) and name != "seed" and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite")
        if self.action_horizon > self.horizon:
            raise ValueError("action_horizon must be at most horizon")
        if self.num_inference_steps > self.num_diffusion_steps:
            raise ValueError("num_inference_steps must be at most num_diffusion_steps")


class Policy(nn.Module):
    """pi(a|s), by denoising. Statistics of the demonstrations are buffers."""

    def __init__(self, obs_space, action_space, args):
        super().__init__()
        self.args = args
        self.action_space = action_space
        obs_dim = obs_space.shape[0]
        act_dim = action_space.shape[0]
        chunk_dim = args.horizon * act_dim
        self.queue = deque()  # what remains of the current chunk, each entry (N, act_dim)
        self.net = nn.Sequential(
            nn.Linear(obs_dim + chunk_dim + 2, args.hidden_dim),  # s, x_t and two numbers for t
            nn.GELU(),
            nn.Linear(args.hidden_dim, args.hidden_dim),
            nn.GELU(),
            nn.Linear(args.hidden_dim, args.hidden_dim),
            nn.GELU(),
            nn.Linear(args.hidden_dim, chunk_dim),
        )
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.register_buffer("action_centre", torch.zeros(act_dim))
        self.register_buffer("action_scale", torch.ones(act_dim))

        # abar_t for t = 0, ..., num_diffusion_steps; beta_t = 1 - abar_t / abar_(t-1) <= 0.999.
        fraction = torch.linspace(0, 1, args.num_diffusion_steps + 1)
        squared_cosine = torch.cos((fraction + 0.008) / 1.008 * math.pi / 2).square()
        alpha = (squared_cosine[1:] / squared_cosine[:-1]).clamp(min=0.001)
        self.register_buffer("abar", torch.cat([torch.ones(1), alpha.cumprod(0)]))
        self.register_buffer("predict_noise", torch.tensor(args.predict_noise))

    def set_statistics(self, obs, actions):
        """Observations are standardised; the range of the actions becomes [-1, 1]."""
        self.obs_mean, self.obs_std = mean_and_std(obs)
        low = actions.amin((0, 1))
        high = actions.amax((0, 1))
        half_range = (high - low) / 2
        self.action_centre = low + half_range
        self.action_scale = torch.where(half_range > 1e-6, half_range, 1.0)

    def forward(self, obs, x, t):
        """f: x_0 (or eps) from x_t (B, horizon * act_dim), of the same shape, and steps t (B,)."""
        # An input that hardly varies in the demonstrations can be huge in the policy's own states.
        obs = ((obs - self.obs_mean) / self.obs_std).clamp(-10, 10)
        abar = self.abar[t][:, None]
        return self.net(torch.cat([obs, x, abar.sqrt(), (1 - abar).sqrt()], dim=-1))

    def loss(self, obs, actions):
        """The loss of chunks of actions (B, horizon, act_dim), at a random step each."""
        x0 = ((actions - self.action_centre) / self.action_scale).flatten(1)
        eps = torch.randn_like(x0)
        t = torch.randint(1, self.args.num_diffusion_steps + 1, (len(x0),), device=x0.device)
        abar = self.abar[t][:, None]
        x = abar.sqrt() * x0 + (1 - abar).sqrt() * eps  # (1)
        prediction = self(obs, x, t)
        if self.predict_noise:
            return (eps - prediction).square().sum(-1).mean()
        weight = (abar / (1 - abar)).clamp(1, 20)
        return (weight * (x0 - prediction).square()).sum(-1).mean()  # (2)

    def inference_steps(self):
        """Decreasing steps from num_diffusion_steps to 0: quadratic, but each at least 1 apart."""
        n = self.args.num_inference_steps
        last = self.args.num_diffusion_steps
        return [max(i, math.ceil(last * i**2 / n**2)) for i in range(n, -1, -1)]

    def sample(self, obs):
        """Chunks of actions (N, horizon, act_dim), drawn by denoising."""
        x = torch.randn(len(obs), self.net[-1].out_features, device=obs.device)
        abar = self.abar.tolist()
        for t, next_t in pairwise(self.inference_steps()):
            signal = math.sqrt(abar[t])
            noise = math.sqrt(1 - abar[t])
            prediction = self(obs, x, torch.full((len(obs),), t, device=obs.device))
            x0 = (x - noise * prediction) / signal if self.predict_noise else prediction
            x0 = x0.clamp(-1, 1)
            eps = (x - signal * x0) / noise  # (3)

            variance = (1 - abar[next_t]) / (1 - abar[t]) * (1 - abar[t] / abar[next_t])
            sigma = math.sqrt(variance) if self.args.sampler == "ddpm" else 0.0
            eps_scale = math.sqrt(max(0.0, 1 - abar[next_t] - sigma**2))
            z = torch.randn_like(x)
            x = math.sqrt(abar[next_t]) * x0 + eps_scale * eps + sigma * z  # (4)
        return self.action_centre + self.action_scale * x.unflatten(-1, (self.args.horizon, -1))

    @torch.inference_mode()
    def act(self, obs):
        """Like an expert, from numpy to numpy: obs (N, obs_dim) to actions (N, act_dim).

        Each call returns the next actions of the chunks; clear `queue` where episodes begin.
        """
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        if not self.queue:
            chunks = self.sample(obs)[:, : self.args.action_horizon]
            self.queue.extend(chunks.unbind(1))
        actions = self.queue.popleft()
        return actions.cpu().numpy().clip(self.action_space.low, self.action_space.high)


def mean_and_std(x):
    """For standardising x (M, dim). Constant dimensions keep scale 1."""
    x = x.double()
    std = x.std(0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    return x.mean(0).float(), std.float()


def train(args, policy, demos, held_out, envs, writer):
    """Fit the policy to the demonstrations, and log its progress."""
    obs, actions = to_tensors(demos, args.horizon, args.device)
    held_out = [x[:10_000] for x in to_tensors(held_out, args.horizon, args.device)]  # for memory
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


def rollout(envs, act, num_episodes, seed, at_start=lambda: None):
    """Play whole episodes, one per environment at a time, with the seeds seed, seed + 1, ..."""
    episodes = []
    progress = tqdm(total=num_episodes, unit=" episodes", leave=False, disable=None)
    while len(episodes) < num_episodes:
        first = len(episodes)
        at_start()  # drops the actions left over from earlier episodes
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


def to_tensors(episodes, horizon, device):
    """Concatenated observations (M, obs_dim), and the actions that follow (M, horizon, act_dim)."""
    obs = np.concatenate([episode.obs for episode in episodes])
    chunks = []
    for episode in episodes:
        steps = np.arange(len(episode.actions))[:, None] + np.arange(horizon)
        steps = steps.clip(max=len(steps) - 1)  # the last action is repeated
        chunks.append(episode.actions[steps])
    actions = np.concatenate(chunks)
    return [torch.tensor(x, dtype=torch.float32, device=device) for x in (obs, actions)]


def evaluate(args, envs, policy, num_episodes):
    """Returns, and if the environment reports them the success rate and the modes of successes."""
    # Seeds: 1_000_000 * args.seed for demonstrations, + 500_000 here, + 700_000 for the expert.
    with torch.random.fork_rng():  # draws of its own, which disturb no training
        torch.manual_seed(args.seed)
        seed = 1_000_000 * args.seed + 500_000
        episodes = rollout(envs, policy.act, num_episodes, seed, at_start=policy.queue.clear)
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
        seed = 1_000_000 * args.seed + 500_000 + number
        rollout(envs, policy.act, 1, seed, at_start=policy.queue.clear)
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
