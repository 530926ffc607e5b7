"""Behaviour cloning with diffusion: noise is added to actions, and a network learns to remove it.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,   eps ~ N(0, 1)                      (1)
    L = E clip(abar_t / (1 - abar_t), 1, 20) || x_0 - f(x_t, t, obs) ||^2               (2)
    x0' = f(x_t, t, obs),   eps' = (x_t - sqrt(abar_t) x0') / sqrt(1 - abar_t)          (3)
    x_r = sqrt(abar_r) x0' + sqrt(1 - abar_r - sigma^2) eps' + sigma z,   r < t         (4)

Chi et al., "Diffusion Policy", 2023 (https://arxiv.org/abs/2303.04137). abar is the squared-cosine
schedule of Nichol & Dhariwal, 2021 (https://arxiv.org/abs/2102.09672). The sampler (4) is DDIM
(Song et al., 2021, https://arxiv.org/abs/2010.02502) with sigma = 0, or DDPM (Ho et al., 2020,
https://arxiv.org/abs/2006.11239) with --eta 1 and as many steps as in training. The weight in (2),
the signal-to-noise ratio, is bounded below as in Salimans & Ho, 2022
(https://arxiv.org/abs/2202.00512), and above as in Hang et al., 2023
(https://arxiv.org/abs/2303.09556). An exponential moving average of the weights acts.

Differences from the paper:
- Chunks of actions are off by default (receding horizon: --horizon 16 --action-horizon 8).
- The network is an MLP that sees one observation, and sqrt(abar_t), sqrt(1 - abar_t) for t.
- f predicts x_0, clipped to [-1, 1] in (3), and not eps (--predict-noise: plain squared error).
- 50 steps in training, eight at test time, denser where there is little noise.
- The upper bound of the weight in (2) is 20; that of Hang et al. is 5.
- --fine-modes adds Fourier features of x_t (https://arxiv.org/abs/2006.10739), draws t more often
  where there is little noise, and bounds the weight in (2) by 100: for modes close together.

At test time (4) draws a chunk of `horizon` actions; the first `action_horizon` are executed.

    python bc_diffusion.py --env-id Hopper-v4  # 3729 ± 21 over 5 seeds
"""

import argparse
import copy
import json
import math
import re
import signal
import sys
import time
from collections import Counter, deque, namedtuple
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import tyro
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import load_expert


@dataclass
class Args:
    # --- Task and demonstrations ---
    env_id: str = "Hopper-v4"  # any Gymnasium id, module:Env-v0 included
    num_envs: int = 25  # environments stepped side by side
    max_episode_steps: int | None = None  # None: the environment's own limit
    num_demos: int = 10  # expert episodes to learn from; a tenth as many on top are held out
    expert: str | None = None  # your own expert, as module:callable
    dataset: str | None = None  # a local Minari data set to learn from, in place of an expert
    # --- Training ---
    seed: int = 0  # of demonstrations, network, batches and evaluation
    num_updates: int = 20_000  # gradient steps
    batch_size: int = 256  # transitions in a gradient step
    learning_rate: float = 1e-3  # at its peak, after a linear warm-up; then cosine to 0
    hidden_dim: int = 256  # width of the hidden layers
    device: Literal["cpu", "cuda"] = "cpu"  # cuda is faster for much larger networks only
    # --- Evaluation and output ---
    eval_every: int = 10_000  # updates between evaluations, one episode in each environment
    eval_episodes: int = 50  # episodes of the final evaluation
    capture_video: bool = False  # record three episodes of the final policy
    checkpoint: str | None = None  # evaluate this policy.safetensors; do not train
    run_dir: str = "runs"  # each run makes its own directory in here
    # --- Diffusion ---
    num_diffusion_steps: int = 50  # in training
    num_inference_steps: int = 8  # at test time
    eta: float = 0.0  # noise of the sampler: 0 is DDIM, 1 is DDPM
    predict_noise: bool = False  # predict eps, as in the paper, instead of x_0
    ema_decay: float = 0.999  # of the moving average of the weights
    fine_modes: bool = False  # for modes close together; give it more inference steps
    horizon: int = 1  # actions in a chunk
    action_horizon: int = 1  # actions executed before the next chunk is drawn

    def __post_init__(self):  # tyro shows what is raised here as a usage error
        sizes = ["num_envs", "num_demos", "num_updates", "batch_size", "hidden_dim"]
        for name in [*sizes, "eval_every", "eval_episodes"]:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ValueError("max_episode_steps must be at least 1")
        if self.seed < 0:
            raise ValueError("seed must be at least 0")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError("learning_rate must be above 0")
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device cuda: PyTorch finds none; use cpu")
        if not 1 <= self.num_inference_steps <= self.num_diffusion_steps:
            raise ValueError("num_inference_steps must be from 1 to num_diffusion_steps")
        if not 1 <= self.action_horizon <= self.horizon:
            raise ValueError("action_horizon must be from 1 to horizon")
        if not 0 <= self.eta <= 1:
            raise ValueError("eta must be from 0 to 1")
        if not 0 <= self.ema_decay < 1:
            raise ValueError("ema_decay must be from 0 to less than 1")


class Policy(nn.Module):
    """pi(a|s), by denoising. Statistics of the demonstrations are buffers.

    To train: `set_statistics` first; after each optimiser step on `net`, `update_average`.
    """

    def __init__(
        self,
        obs_space,
        action_space,
        hidden_dim=256,
        num_diffusion_steps=50,
        num_inference_steps=8,
        eta=0.0,
        predict_noise=False,
        ema_decay=0.999,
        fine_modes=False,
        horizon=1,
        action_horizon=1,
    ):
        super().__init__()
        obs_dim = obs_space.shape[0]
        act_dim = action_space.shape[0]
        self.num_diffusion_steps = num_diffusion_steps
        self.num_inference_steps = num_inference_steps
        self.eta = eta
        self.predict_noise = predict_noise
        self.ema_decay = ema_decay
        self.fine_modes = fine_modes
        self.horizon = horizon
        self.action_horizon = action_horizon
        self.queue = deque()  # what remains of the current chunk, each entry (N, act_dim)
        self.num_averaged = 0

        num_frequencies = 5 if fine_modes else 0
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(num_frequencies))
        x_dim = (1 + 2 * num_frequencies) * horizon * act_dim
        self.net = nn.Sequential(
            nn.Linear(obs_dim + x_dim + 2, hidden_dim),  # obs, x_t and 2 numbers for t
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, horizon * act_dim),
        )
        self.ema_net = copy.deepcopy(self.net).requires_grad_(False)
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.register_buffer("action_centre", torch.zeros(act_dim))
        self.register_buffer("action_scale", torch.ones(act_dim))
        self.register_buffer("action_low", torch.tensor(action_space.low))
        self.register_buffer("action_high", torch.tensor(action_space.high))

        # abar_t for t = 0, ..., num_diffusion_steps; beta_t = 1 - abar_t / abar_(t-1) <= 0.999.
        share = torch.linspace(0, 1, num_diffusion_steps + 1)
        squared_cosine = torch.cos((share + 0.008) / 1.008 * math.pi / 2).square()
        alpha = (squared_cosine[1:] / squared_cosine[:-1]).clamp(min=0.001)
        self.register_buffer("abar", torch.cat([torch.ones(1), alpha.cumprod(0)]))

    def set_statistics(self, obs, actions):
        """Observations are standardised; the range of the actions becomes [-1, 1]."""
        self.obs_mean, self.obs_std = mean_and_std(obs)
        actions = actions.unflatten(-1, (self.horizon, -1)).flatten(0, 1)  # (..., act_dim)
        low = actions.amin(0)
        high = actions.amax(0)
        half_range = (high - low) / 2
        self.action_centre = low + half_range
        self.action_scale = torch.where(half_range > 1e-6, half_range, 1.0)

    def predict(self, net, obs, x, t):
        """f: x_0, or eps, from x_t (B, horizon * act_dim), of the same shape, and steps t (B,)."""
        obs = ((obs - self.obs_mean) / self.obs_std).clamp(-10, 10)
        abar = self.abar[t][:, None]
        angles = (x[..., None] * self.frequencies).flatten(1)  # of no columns without fine_modes
        inputs = [obs, x, angles.sin(), angles.cos(), abar.sqrt(), (1 - abar).sqrt()]
        return net(torch.cat(inputs, dim=-1))

    def loss(self, obs, actions):
        chunks = actions.unflatten(-1, (self.horizon, -1))
        x0 = ((chunks - self.action_centre) / self.action_scale).flatten(1)
        eps = torch.randn_like(x0)
        t = torch.randint(1, self.num_diffusion_steps + 1, (len(x0),), device=x0.device)
        if self.fine_modes:
            t = (t.square() / self.num_diffusion_steps).ceil().long()
        abar = self.abar[t][:, None]
        x = abar.sqrt() * x0 + (1 - abar).sqrt() * eps  # (1)
        prediction = self.predict(self.net, obs, x, t)
        if self.predict_noise:
            return (eps - prediction).square().sum(-1).mean()
        weight = (abar / (1 - abar)).clamp(1, 100 if self.fine_modes else 20)
        return (weight * (x0 - prediction).square()).sum(-1).mean()  # (2)

    @torch.no_grad()
    def update_average(self):
        """Exponential moving average of the weights; the decay grows to ema_decay."""
        self.num_averaged += 1
        decay = min(self.ema_decay, (1 + self.num_averaged) / (10 + self.num_averaged))
        pairs = zip(self.ema_net.parameters(), self.net.parameters(), strict=True)
        for average, parameter in pairs:
            average.lerp_(parameter, 1 - decay)

    def inference_steps(self):
        """Decreasing steps from num_diffusion_steps to 0: quadratic, but each at least 1 apart."""
        n = self.num_inference_steps
        last = self.num_diffusion_steps
        return [max(i, math.ceil(last * i**2 / n**2)) for i in range(n, -1, -1)]

    def sample(self, obs):
        """Chunks of actions (N, horizon, act_dim), drawn by denoising."""
        x = torch.randn(len(obs), self.net[-1].out_features, device=obs.device)
        abar = self.abar.tolist()
        for t, r in pairwise(self.inference_steps()):
            steps = torch.full((len(obs),), t, device=obs.device)
            prediction = self.predict(self.ema_net, obs, x, steps)
            if self.predict_noise:
                x0 = (x - math.sqrt(1 - abar[t]) * prediction) / math.sqrt(abar[t])
            else:
                x0 = prediction
            x0 = x0.clamp(-1, 1)
            eps = (x - math.sqrt(abar[t]) * x0) / math.sqrt(1 - abar[t])  # (3)

            ddpm_variance = (1 - abar[r]) / (1 - abar[t]) * (1 - abar[t] / abar[r])
            sigma = self.eta * math.sqrt(ddpm_variance)
            eps_scale = math.sqrt(max(0.0, 1 - abar[r] - sigma**2))
            z = torch.randn_like(x)
            x = math.sqrt(abar[r]) * x0 + eps_scale * eps + sigma * z  # (4)
        return self.action_centre + self.action_scale * x.unflatten(-1, (self.horizon, -1))

    @torch.inference_mode()
    def act(self, obs):
        """Like an expert, from numpy to numpy: obs (N, obs_dim) to actions (N, act_dim).

        Each call returns the next actions of the chunks; clear `queue` where episodes begin.
        """
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        if not self.queue:
            chunks = self.sample(obs)[:, : self.action_horizon]
            self.queue.extend(chunks.unbind(1))
        actions = self.queue.popleft()
        return actions.clamp(self.action_low, self.action_high).cpu().numpy()


def mean_and_std(x):
    """For standardising x (T, dim); a dimension that is constant is only centred."""
    x = x.double()
    std = x.std(0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    return x.mean(0).float(), std.float()


def fail(message):
    """End with a message on standard error and exit status 2, which stands for wrong input."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def make_envs(args, num_envs, **kwargs):
    """Environments stepped side by side, with flat observations and continuous actions."""
    name = f"--env-id {args.env_id}"
    limit = args.max_episode_steps
    try:
        envs = gym.make_vec(args.env_id, num_envs, "sync", max_episode_steps=limit, **kwargs)
    except (gym.error.Error, ImportError) as error:
        fail(f"{name} cannot be made: {error}")
    obs_space = envs.single_observation_space
    action_space = envs.single_action_space
    if not isinstance(obs_space, gym.spaces.Box) or len(obs_space.shape) != 1:
        fail(f"{name} has observations {obs_space}; a flat Box is needed")
    if not isinstance(action_space, gym.spaces.Box) or len(action_space.shape) != 1:
        fail(
            f"{name} has actions {action_space}; a flat Box is needed.\n"
            "bc_autoregressive.py takes Discrete and MultiDiscrete actions."
        )
    if envs.envs[0].spec.max_episode_steps is None:
        fail(f"{name} does not limit its episodes; give --max-episode-steps")
    return envs


Episode = namedtuple("Episode", "obs actions rewards info")


def rollout(envs, act, num_episodes, seed, title=None, at_start=None):
    """Play whole episodes; number k starts from the seed `seed + k`."""
    episodes = []
    progress = tqdm(desc=title, unit=" steps", leave=False, disable=None)
    while len(episodes) < num_episodes:
        obs, _ = envs.reset(seed=seed + len(episodes))  # environment i gets this seed + i
        if at_start:
            at_start()
        running = np.ones(envs.num_envs, dtype=bool)
        last_infos = [{} for _ in range(envs.num_envs)]
        steps = []

        # An environment that is done starts over, unrecorded, until the whole batch is done.
        while running.any():
            actions = np.array(act(obs.copy()))  # copies, in case an expert reuses its arrays
            if actions.shape != envs.action_space.shape:
                fail(f"actions of shape {envs.action_space.shape} are needed, not {actions.shape}")
            next_obs, rewards, terminated, truncated, infos = envs.step(actions)
            steps.append((obs, actions, rewards, running))
            progress.update(int(running.sum()))
            done = running & (terminated | truncated)
            for i in np.flatnonzero(done):
                for key in ("is_success", "mode"):
                    if isinstance(infos.get(key), np.ndarray) and infos[f"_{key}"][i]:
                        last_infos[i][key] = infos[key][i]
            running = running & ~done
            obs = next_obs

        obs, actions, rewards, recorded = (np.stack(column) for column in zip(*steps, strict=True))
        for i in range(envs.num_envs):
            mask = recorded[:, i]  # the steps of this environment's first episode
            columns = obs[mask, i], actions[mask, i], rewards[mask, i]
            episodes.append(Episode(*columns, last_infos[i]))
    progress.close()
    return episodes[:num_episodes]


def read_dataset(args, num_episodes):
    """The first episodes of a local Minari data set."""
    try:
        import minari

        dataset = minari.load_dataset(args.dataset)
    except ImportError:
        fail("--dataset needs Minari: pip install 'minari[hdf5]'")
    except (OSError, ValueError) as error:
        fail(f"--dataset {args.dataset} cannot be read: {error}")
    if dataset.total_episodes < num_episodes:
        fail(
            f"--dataset {args.dataset} has {dataset.total_episodes} episodes, and {num_episodes} "
            "are needed; lower --num-demos"
        )
    episodes = dataset.iterate_episodes(dataset.episode_indices[:num_episodes])
    return [Episode(e.observations[:-1], e.actions, e.rewards, {}) for e in episodes]


def collect_demonstrations(args, num_episodes):
    """Whole episodes of the expert, or of a data set in its place."""
    envs = make_envs(args, min(args.num_envs, num_episodes))
    if args.dataset:
        episodes = read_dataset(args, num_episodes)
    else:
        try:
            expert = load_expert(args.env_id, args.expert, args.seed)
        except gym.error.Error as error:
            fail(error)
        seed = 1_000_000 * args.seed
        episodes = rollout(envs, expert, num_episodes, seed, "demonstrations")
    for number, episode in enumerate(episodes):
        check_data(envs, episode.obs, episode.actions, f"demonstration {number}")
    return episodes


def check_data(envs, obs, actions, source):
    """Refuse observations and actions from which nothing can be learned."""
    obs_dim = envs.single_observation_space.shape[0]
    if obs.shape[1:] != (obs_dim,) or not np.isfinite(obs).all():
        fail(f"{source} has observations that are not {obs_dim} finite numbers")
    action_space = envs.single_action_space
    if not all(action in action_space for action in actions.astype(action_space.dtype)):
        fail(f"{source} has actions that are not in {action_space}")


def to_tensors(episodes, horizon, device):
    """All observations (T, obs_dim), each with its next actions (T, horizon * act_dim)."""
    obs = np.concatenate([episode.obs for episode in episodes])
    chunks = []
    for episode in episodes:
        last = len(episode.actions) - 1
        for t in range(len(episode.actions)):
            ahead = np.minimum(t + np.arange(horizon), last)  # the last action is repeated
            chunks.append(episode.actions[ahead].flatten())
    actions = np.stack(chunks)
    return [torch.tensor(x, dtype=torch.float32, device=device) for x in (obs, actions)]


def evaluate(args, envs, policy, num_episodes):
    """Returns; and the success rate and the modes of successes, if the environment reports them."""
    # The seeds of the demonstrations begin at 1_000_000 * args.seed, so these episodes are new.
    with torch.random.fork_rng():  # so that what is drawn here depends on the seed alone
        torch.manual_seed(args.seed)
        seed = 1_000_000 * args.seed + 500_000
        clear = policy.queue.clear
        episodes = rollout(envs, policy.act, num_episodes, seed, "evaluation", at_start=clear)
    returns = [float(episode.rewards.sum()) for episode in episodes]
    results = {
        "eval_returns": returns,
        "return_mean": float(np.mean(returns)),
        "return_std": float(np.std(returns)),
    }
    infos = [episode.info for episode in episodes]
    if any("is_success" in info for info in infos):
        successes = [info for info in infos if np.all(info.get("is_success", False))]
        results["success_rate"] = len(successes) / num_episodes
        results["modes"] = Counter(str(info["mode"]) for info in successes if "mode" in info)
    return results


def describe(args, demos):
    """What results.json and the saved policy say of the training."""
    num_transitions = sum(len(demo.obs) for demo in demos[: args.num_demos])
    return {
        "algorithm": Path(__file__).stem,
        "args": asdict(args),
        "num_transitions": num_transitions,
        "expert_labels": num_transitions,
        "expert_return": float(np.mean([demo.rewards.sum() for demo in demos])),
    }


def train(args, policy, demos, envs, run, writer, metadata):
    """Fit the policy to the demonstrations; the last policy is the one that is kept."""
    begin = time.time()
    obs, actions = to_tensors(demos[: args.num_demos], args.horizon, args.device)
    held_out = to_tensors(demos[args.num_demos :], args.horizon, args.device)
    policy.set_statistics(obs, actions)
    optimizer = torch.optim.AdamW(policy.net.parameters(), fused=True)

    progress = tqdm(range(1, args.num_updates + 1), unit=" updates", disable=None)
    for update in progress:
        fraction = update / args.num_updates
        cosine = 0.5 * (1 + math.cos(math.pi * fraction))
        warm_up = 20 * fraction  # over the first 5%
        optimizer.param_groups[0]["lr"] = args.learning_rate * min(warm_up, cosine)
        batch = torch.randint(len(obs), (args.batch_size,), device=args.device)
        loss = policy.loss(obs[batch], actions[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        policy.update_average()

        if update % 500 == 0 or update == args.num_updates:
            train_loss = loss.item()
            if not math.isfinite(train_loss):
                fail(f"the loss is {train_loss} at update {update}; lower --learning-rate")
            with torch.no_grad():
                held_out_loss = policy.loss(*held_out).item()
            writer.add_scalar("loss/train", train_loss, update)
            writer.add_scalar("loss/held_out", held_out_loss, update)
            progress.set_description(f"loss {train_loss:.3f}", refresh=False)
            metadata["held_out_loss"] = held_out_loss
            metadata["train_seconds"] = time.time() - begin
            save_policy(policy, run, metadata)

        if update % args.eval_every == 0 and update < args.num_updates:
            return_mean = evaluate(args, envs, policy, envs.num_envs)["return_mean"]
            writer.add_scalar("eval/return", return_mean, update)
            progress.set_postfix(last_return=f"{return_mean:.2f}")


def save_policy(policy, run, metadata):
    """Write beside and rename, so that policy.safetensors is complete at every moment."""
    save_file(policy.state_dict(), run / "policy.tmp", {"metadata": json.dumps(metadata)})
    (run / "policy.tmp").replace(run / "policy.safetensors")


def read_checkpoint(path):
    """Metadata and weights of a saved policy; reading a safetensors file never runs code."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["metadata"])
            weights = {name: file.get_tensor(name) for name in file.keys()}
        metadata["args"]["device"] = "cpu"  # unless asked for: this machine may be another
        Args(**metadata["args"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        fail(f"--checkpoint {path} was not saved by this script: {error}")
    return metadata, weights


def parse_args(command_line=None):
    """The arguments; those that a checkpoint was trained with are the defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--checkpoint")
    saved, _ = parser.parse_known_args(command_line)
    default = Args()
    if saved.checkpoint:
        metadata, _ = read_checkpoint(saved.checkpoint)
        default = Args(**metadata["args"])
    return tyro.cli(Args, args=command_line, default=default, description=__doc__)


def load_weights(policy, weights, path):
    try:
        policy.load_state_dict(weights)
    except RuntimeError as error:
        fail(f"--checkpoint {path} does not fit: {str(error).splitlines()[-1].strip()}")
    if any(tensor.isnan().any() for tensor in weights.values()):
        fail(f"--checkpoint {path} has weights that are not numbers")


def make_run_dir(args):
    """A new directory for what this run writes."""
    name = re.sub("[:/]", "-", f"{args.env_id}__{Path(__file__).stem}__{args.seed}")
    while True:
        run = Path(args.run_dir) / f"{name}__{int(time.time())}"
        try:
            run.mkdir(parents=True)
            return run
        except FileExistsError:  # another run began in the same second
            time.sleep(1)
        except OSError as error:
            fail(f"--run-dir {args.run_dir} cannot be written: {error}")


def exit_on_interrupt(message):
    """From now on Ctrl-C and SIGTERM end the run with this message and exit status 130."""

    def stop(*_):
        print(message, file=sys.stderr)
        sys.exit(130)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def report(results, policy, run, seconds):
    """Write results.json, complete or not at all, and the line that ends the run."""
    results["num_parameters"] = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    packages = ("torch", "gymnasium", "mujoco", "numpy")
    results["versions"] = {name: version(name) for name in packages}
    results["total_seconds"] = seconds
    (run / "results.tmp").write_text(json.dumps(results, indent=2))
    (run / "results.tmp").replace(run / "results.json")

    score = f"return {results['return_mean']:.2f} ± {results['return_std']:.2f}"
    if "success_rate" in results:
        score += f", success {results['success_rate']:.1%}"
    score += f" (demonstrations {results['expert_return']:.2f})"
    print(f"{results['algorithm']} on {results['env_id']}: {score}; {seconds:.0f} s; {run}")


def make_video_envs(args):
    """One environment that keeps its frames; MuJoCo's camera follows the robot."""
    kwargs = {"render_mode": "rgb_array_list"}
    spec = gym.spec(args.env_id.split(":")[-1])  # of module:Env-v0, the module is imported by now
    if "gymnasium.envs.mujoco" in str(spec.entry_point):
        kwargs["camera_name"] = "track"
    return make_envs(args, 1, **kwargs)


def check_rendering(args):
    """Try it before the training: on a machine without a screen it may not work."""
    envs = make_video_envs(args)
    try:
        envs.reset()  # renders the first frame
    except Exception as error:
        if not type(envs.envs[0].unwrapped).__module__.startswith("gymnasium"):
            raise  # the user's own code
        fail(f"--capture-video: {error}\nWithout a screen, MuJoCo needs MUJOCO_GL=egl.")
    envs.close()


def record_videos(args, policy, run):
    """Three episodes, from the first seeds of the evaluation, as run/videos/*.mp4."""
    from moviepy import ImageSequenceClip  # here, as it takes half a second

    envs = make_video_envs(args)
    frames_per_second = envs.metadata.get("render_fps", 30)
    (run / "videos").mkdir()
    for number in range(3):
        seed = 1_000_000 * args.seed + 500_000 + number
        rollout(envs, policy.act, 1, seed, "video", at_start=policy.queue.clear)
        (frames,) = envs.render()  # all since the start of the episode
        clip = ImageSequenceClip(frames, fps=frames_per_second)
        clip.write_videofile(run / "videos" / f"episode-{number}.mp4", logger=None)
    envs.close()


def make_policy(args, envs):
    spaces = envs.single_observation_space, envs.single_action_space
    return Policy(
        *spaces,
        hidden_dim=args.hidden_dim,
        num_diffusion_steps=args.num_diffusion_steps,
        num_inference_steps=args.num_inference_steps,
        eta=args.eta,
        predict_noise=args.predict_noise,
        ema_decay=args.ema_decay,
        fine_modes=args.fine_modes,
        horizon=args.horizon,
        action_horizon=args.action_horizon,
    ).to(args.device)


def main(args):
    start = time.time()
    exit_on_interrupt("interrupted")
    torch.set_num_threads(1)  # for networks of this size, more threads are slower
    torch.manual_seed(args.seed)
    envs = make_envs(args, min(args.num_envs, args.eval_episodes))
    policy = make_policy(args, envs)
    if args.capture_video:
        check_rendering(args)
    if args.checkpoint:
        metadata, weights = read_checkpoint(args.checkpoint)
        load_weights(policy, weights, args.checkpoint)
    else:
        demos = collect_demonstrations(args, args.num_demos + math.ceil(args.num_demos / 10))
        metadata = describe(args, demos)

    run = make_run_dir(args)
    exit_on_interrupt(f"interrupted; what was saved is in {run}")
    writer = SummaryWriter(run)
    writer.add_text("args", json.dumps(asdict(args), indent=4))
    if not args.checkpoint:
        train(args, policy, demos, envs, run, writer, metadata)

    results = metadata | {"env_id": args.env_id, "seed": args.seed, "args": asdict(args)}
    results |= evaluate(args, envs, policy, args.eval_episodes)
    writer.add_scalar("eval/return", results["return_mean"], args.num_updates)
    writer.close()
    report(results, policy, run, time.time() - start)
    if args.capture_video:
        record_videos(args, policy, run)


if __name__ == "__main__":
    main(parse_args())
