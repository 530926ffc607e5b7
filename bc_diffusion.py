"""Behaviour cloning with diffusion: actions are drowned in noise step by step, and a network learns the way back.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps,   eps ~ N(0, 1)                         (1)
    L = E_(t, eps) clip(abar_t / (1 - abar_t), 1, 20) || x_0 - f(x_t, t, s) ||^2           (2)
    x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) eps + sigma z,   s < t             (3)

Chi et al., "Diffusion Policy", 2023; squared-cosine abar of Nichol & Dhariwal, 2021; clipped-SNR weight of Hang et al.,
2023; (3) is DDIM (Song et al., 2021), with quadratic steps, or DDPM (Ho et al., 2020) by --eta 1 and 50 of 50 steps.
Unlike the paper's network, this is an MLP that sees one observation and predicts x_0 (eps: --predict-noise). The kept
policy has the lowest held-out loss. At test time (3) draws `horizon` actions and executes `action_horizon` of them.
    python bc_diffusion.py --env-id Hopper-v4  # return 3736 ± 5 over 5 seeds, 3.1 minutes on one core
"""

import json
import math
import re
import signal
import sys
import time
import timeit
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import tyro
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import load_expert, make_envs, rollout


@dataclass
class Args:
    # --- Experiment ---
    env_id: str = "Hopper-v4"  # any Gymnasium id, module:Env-v0 included
    seed: int = 0  # of demonstrations, network, batches and evaluation
    num_demos: int = 10  # expert episodes to learn from
    expert: str | None = None  # your own expert as module:callable, in place of the shipped one
    dataset: str | None = None  # a local Minari data set to learn from, in place of an expert's demonstrations
    num_updates: int = 20_000  # gradient steps
    batch_size: int = 256  # transitions per gradient step
    learning_rate: float = 1e-3  # at its peak: a short warm-up, then cosine to zero
    hidden_dim: int = 256  # width of the hidden layers
    eval_every: int = 5_000  # updates between evaluations, one episode in each environment
    eval_episodes: int = 50  # episodes of the final evaluation
    num_envs: int = 20  # environments stepped side by side
    max_episode_steps: int | None = None  # limit where the environment sets none itself; 1,000 if not given
    device: str = "auto"  # auto, cpu or cuda
    num_threads: int = 1  # more are slower for networks of this size
    capture_video: bool = False  # record three episodes of the final policy
    run_dir: str = "runs"  # each run makes its own directory in here
    checkpoint: str | None = None  # evaluate this policy.safetensors, no training
    # --- Diffusion ---
    num_diffusion_steps: int = 50  # T, in training
    num_inference_steps: int = 6  # of them, denser where there is less noise, at test time
    eta: float = 0.0  # noise of the sampler: 0 is DDIM, 1 is DDPM
    predict_noise: bool = False  # eps, as in the paper, in place of x_0
    ema_decay: float = 0.999  # of the averaged weights
    fine_modes: bool = False  # Fourier features of x_t (Tancik et al., 2020) and low t more often: for modes close by
    horizon: int = 1  # actions drawn together
    action_horizon: int = 1  # of them, executed before the next draw


def moments(x):
    """Mean and standard deviation (2, dim) of x (T, dim), for standardising; a constant dimension is only centred."""
    std, mean = torch.std_mean(x.double(), dim=0, correction=0)
    return torch.stack([mean, torch.where(std > 1e-6, std, 1.0)])


class Policy(nn.Module):
    """pi(a|s) by denoising; obs (B, obs_dim), actions (B, horizon * act_dim) in the environment's units."""

    def __init__(self, args, obs_space, action_space):
        super().__init__()
        if not isinstance(action_space, gym.spaces.Box):
            raise ValueError(f"a Box action space is needed, not {action_space}; bc_autoregressive.py takes it.")
        if not (args.num_inference_steps <= args.num_diffusion_steps and args.action_horizon <= args.horizon):
            raise ValueError("--num-inference-steps is at most --num-diffusion-steps, --action-horizon --horizon.")
        if not (0 <= args.eta <= 1 and 0 <= args.ema_decay < 1):
            raise ValueError("--eta must be 0 to 1, --ema-decay 0 to less than 1.")
        self.args, (obs_dim,), (self.D,), hidden = args, obs_space.shape, action_space.shape, args.hidden_dim
        self.register_buffer("obs_moments", torch.tensor([[0.0], [1.0]]).repeat(1, obs_dim))
        self.register_buffer("action_range", torch.tensor([[-1.0], [1.0]]).repeat(1, self.D))
        self.register_buffer("action_bounds", torch.as_tensor(np.stack([action_space.low, action_space.high])))
        self.register_buffer("predict_noise", torch.tensor(args.predict_noise))
        f = torch.cos((torch.linspace(0, 1, args.num_diffusion_steps + 1)[:, None] + 0.008) / 1.008 * math.pi / 2) ** 2
        self.register_buffer("abar", torch.cat([torch.ones(1, 1), (f[1:] / f[:-1]).clamp(min=0.001)]).cumprod(0))
        self.register_buffer("frequencies", math.pi * 2.0 ** torch.arange(5 * args.fine_modes))
        sizes = obs_dim + (1 + 10 * args.fine_modes) * args.horizon * self.D + 2, hidden, hidden, hidden
        layers = [layer for size in pairwise(sizes) for layer in (nn.Linear(*size), nn.GELU())]
        self.net = nn.Sequential(*layers, nn.Linear(hidden, args.horizon * self.D))
        warm_up = lambda old, new, n: old.lerp(new, 1 - min(args.ema_decay, (1 + n) / (10 + n)))  # noqa: E731
        self.ema = torch.optim.swa_utils.AveragedModel(self.net, avg_fn=warm_up).requires_grad_(False)
        self.queues = []  # for each environment, what remains of its chunk

    def fit(self, obs, actions):
        """Take the statistics of the demonstrations."""
        self.obs_moments.copy_(moments(obs))
        low, high = actions.view(-1, self.D).aminmax(dim=0)
        self.action_range.copy_(torch.stack([low, torch.where(high - low > 1e-6, high, low + 1 + low.abs())]))

    def forward(self, net, obs, x, t):
        """What `net` predicts, x_0 or eps, from x_t (B, horizon * act_dim) at the steps t (B,)."""
        (mean, std), a, w = self.obs_moments, self.abar[t], (x.unsqueeze(-1) * self.frequencies).flatten(1)
        return net(torch.cat([((obs - mean) / std).clamp(-10, 10), x, w.sin(), w.cos(), a.sqrt(), (1 - a).sqrt()], -1))

    def loss(self, obs, actions):
        low, high = self.action_range.repeat(1, self.args.horizon)
        x0 = 2 * (actions - low) / (high - low) - 1  # in [-1, 1]
        t, eps = torch.randint(1, len(self.abar), (len(obs),), device=obs.device), torch.randn_like(x0)
        t = -(-t.square() // self.args.num_diffusion_steps) if self.args.fine_modes else t  # as the sampler's steps
        abar = self.abar[t]
        if torch.is_grad_enabled():
            self.ema.update_parameters(self.net)
        net = self.net if torch.is_grad_enabled() else self.ema  # held-out: the weights that act
        out = self(net, obs, abar.sqrt() * x0 + (1 - abar).sqrt() * eps, t)  # (1)
        snr = (abar / (1 - abar)).clamp(1, 100 if self.args.fine_modes else 20)
        return ((eps - out).square() if self.predict_noise else snr * (x0 - out).square()).sum(-1).mean()  # (2)

    def sample(self, obs):
        """Chunks of actions (B, horizon, act_dim)."""
        x = torch.randn(len(obs), self.args.horizon * self.D, device=obs.device)
        n, i = self.args.num_inference_steps, torch.arange(self.args.num_inference_steps, -1, -1)
        steps = torch.maximum(i, -(-self.args.num_diffusion_steps * i.square() // n**2)).tolist()
        root, rest = torch.cat([self.abar.sqrt(), (1 - self.abar).sqrt()], -1).T.tolist()
        for t, s in pairwise(steps):
            out = self(self.ema, obs, x, torch.full((len(obs),), t))
            x0 = ((x - rest[t] * out) / root[t] if self.predict_noise else out).clamp(-1, 1)
            eps = (x - root[t] * x0) / rest[t]
            sigma = self.args.eta * rest[s] / rest[t] * math.sqrt(1 - (root[t] / root[s]) ** 2)  # 0 at the last step
            x = root[s] * x0 + math.sqrt(max(0, rest[s] ** 2 - sigma**2)) * eps + sigma * torch.randn_like(x)  # (3)
        return self.action_range[0] + self.action_range.diff(dim=0) * (x.unflatten(-1, (-1, self.D)) + 1) / 2

    def reset(self, starts):
        """Void the chunks of those of the N environments in which an episode begins, `starts` (N,) bool."""
        self.queues = [[] if start else queue for start, queue in zip(starts, self.queues, strict=False)]

    @torch.no_grad()
    def act(self, obs):
        self.queues = self.queues if len(self.queues) == len(obs) else [[] for _ in obs]
        empty = [i for i, queue in enumerate(self.queues) if not queue]
        for i, chunk in zip(empty, self.sample(obs[empty]) if empty else [], strict=True):
            self.queues[i] = list(chunk[: self.args.action_horizon])
        return torch.stack([queue.pop(0) for queue in self.queues]).clamp(*self.action_bounds)


def fail(message, status=2):
    """End with the message on standard error, without a traceback; status 2 is for wrong input."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def collect_demonstrations(envs, expert, num_episodes, seed, horizon):
    """obs (T, obs_dim), each with the next `horizon` actions (T, horizon * act_dim), an episode's last one repeated."""
    steps = rollout(envs, expert, num_episodes, seed)
    episode, obs, actions = (np.concatenate(column) for column in zip(*(step[:3] for step in steps), strict=True))
    order = np.argsort(episode, kind="stable")[: (episode < num_episodes).sum()]
    last = np.cumsum(np.bincount(episode[order]))[episode[order]] - 1
    ahead = np.minimum(np.arange(len(order))[:, None] + np.arange(horizon), last[:, None])  # (T, horizon)
    actions = actions[order][ahead].reshape(len(order), -1)
    return torch.as_tensor(obs[order], dtype=torch.float32), torch.as_tensor(actions, dtype=torch.float32)


def evaluate(envs, policy, num_episodes, seed):
    """Returns of `num_episodes`, time per action and, where the last `info` reports them, successes and their modes."""

    def act(obs):
        obs = torch.as_tensor(obs, dtype=torch.float32, device=device)
        return policy.act(obs).cpu().numpy().reshape(envs.action_space.shape).astype(envs.action_space.dtype)

    act.reset, device = getattr(policy, "reset", None), next(policy.parameters()).device
    returns, endings = np.zeros(num_episodes + 1), [{}] * (num_episodes + 1)
    with torch.random.fork_rng():  # sampling here leaves training as it is, and the other way round
        torch.manual_seed(seed)
        for episode, obs, _, rewards, done, infos in rollout(envs, act, num_episodes, seed):  # noqa: B007
            returns[episode] += rewards
            for i in np.flatnonzero(done):
                endings[episode[i]] = {k: infos[k][i] for k in ("is_success", "mode", "num_modes") if k in infos}
        microseconds = 1e6 * min(timeit.repeat(lambda: act(obs), number=10, repeat=10)) / (10 * len(obs))
    returns, endings = returns[:-1], endings[:-1]
    results = {"eval_returns": returns.tolist(), "return_mean": returns.mean(), "return_std": returns.std()}
    results["microseconds_per_action"] = microseconds  # in a batch of `num_envs`
    if any("is_success" in end for end in endings):
        results["success_rate"] = float(np.mean([bool(end.get("is_success")) for end in endings]))
    if "mode" in endings[0]:
        modes, counts = np.unique([end["mode"] for end in endings if end["is_success"]], return_counts=True)
        entropy = (counts / counts.sum() * np.log(counts.sum() / counts)).sum() / math.log(endings[0]["num_modes"])
        results |= {"mode_counts": dict(zip(modes.tolist(), counts.tolist(), strict=True)), "mode_entropy": entropy}
    return results


def load(policy, path, expected):
    """Load a saved policy's weights and return its metadata, which must agree with `expected`."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["metadata"])
            made_with = {name: metadata[name] for name in expected}
            if made_with != expected:
                fail(f"--checkpoint {path} was made with {made_with}, not {expected}.")
            policy.load_state_dict({name: file.get_tensor(name) for name in file.keys()})
    except (OSError, SafetensorError, KeyError, TypeError, RuntimeError) as error:
        fail(f"--checkpoint {path} is not what this script saves with these arguments: {str(error).splitlines()[0]}")
    return metadata


def main(args):
    start, algorithm = time.time(), Path(__file__).stem
    for name, value in asdict(args).items():
        if type(value) is int and value < (lowest := int(name != "seed")):
            fail(f"--{name.replace('_', '-')} must be at least {lowest}, not {value}.")
    if args.device not in ("auto", "cpu", "cuda")[: 2 + torch.cuda.is_available()]:
        fail(f"--device {args.device} is not available; it is auto, cpu or, with a CUDA device, cuda.")
    device = "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"
    torch.set_num_threads(args.num_threads)
    torch.manual_seed(args.seed)
    demo_seed, validation_seed, eval_seed = (1_000_000 * args.seed + offset for offset in (0, 300_000, 600_000))
    try:
        envs = make_envs(args.env_id, args.num_envs, args.max_episode_steps)
        policy = Policy(args, envs.single_observation_space, envs.single_action_space).to(device)
        if args.checkpoint:
            metadata = load(policy, args.checkpoint, {"algorithm": algorithm, "env_id": args.env_id})
        else:
            expert = load_expert(args.env_id, args.expert, args.seed, args.dataset)
            splits = (args.num_demos, demo_seed), (max(1, args.num_demos // 10), validation_seed)
            data = [collect_demonstrations(envs, expert, *split, getattr(args, "horizon", 1)) for split in splits]
            (obs, actions), validation = ([x.to(device) for x in split] for split in data)
            metadata = {"algorithm": algorithm, "env_id": args.env_id, "seed": args.seed, "args": asdict(args)}
            metadata |= {"num_transitions": len(obs), "expert_labels": len(obs)} | (policy.fit(obs, actions) or {})
            metadata |= {"expert_return": expert.return_mean, "random_return": expert.random_return}
        run = Path(args.run_dir) / re.sub("[:/]", "-", f"{args.env_id}__{algorithm}__{args.seed}__{int(time.time())}")
        run.mkdir(parents=True)
    except (ValueError, OSError) as error:
        fail(f"--run-dir {args.run_dir} cannot be written: {error}" if isinstance(error, OSError) else error)
    writer = SummaryWriter(run)
    writer.add_text("hyperparameters", "\n".join(f"    {name} = {value}" for name, value in asdict(args).items()))
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)
    num_updates, lowest, shown = 0 if args.checkpoint else args.num_updates, math.inf, {}
    progress = tqdm(range(1, num_updates + 1), desc=algorithm, unit=" updates", disable=None if num_updates else True)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: fail(f"interrupted; the best policy so far, if any, is in {run}", status=130))
    begin, evaluating = time.perf_counter(), 0.0
    for update in progress:
        cosine = 0.5 * (1 + math.cos(math.pi * update / num_updates))
        optimizer.param_groups[0]["lr"] = args.learning_rate * min(update / 500, cosine)
        batch = torch.randint(len(obs), (args.batch_size,), device=device)
        loss = policy.loss(obs[batch], actions[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update % 250 == 0 or update == num_updates:
            with torch.no_grad(), torch.random.fork_rng():  # the same noise each time, where the loss draws any
                torch.manual_seed(args.seed)
                held_out = policy.loss(*validation).item()
            if not math.isfinite(held_out):
                fail(f"the loss is {held_out} at update {update}; lower --learning-rate. Best policy so far: {run}")
            if held_out < lowest:  # the policy that is kept: the lowest held-out loss, never the highest return
                lowest, metadata = held_out, metadata | {"update": update, "held_out_loss": held_out}
                save_file(policy.state_dict(), run / "policy.tmp", {"metadata": json.dumps(metadata)})
                (run / "policy.tmp").replace(run / "policy.safetensors")
            writer.add_scalar("loss/train", loss.item(), update)
            writer.add_scalar("loss/held_out", held_out, update)
            progress.set_postfix({"loss": f"{loss.item():.3f}"} | shown, refresh=False)
        if update % args.eval_every == 0 and update < num_updates:
            tick = time.perf_counter()
            mean = evaluate(envs, policy, args.num_envs, eval_seed)["return_mean"]
            shown = {"last_return": f"{mean:.2f}"}
            writer.add_scalar("eval/return", mean, update)
            writer.add_scalar("throughput/updates_per_second", update / (tick - begin - evaluating), update)
            evaluating += time.perf_counter() - tick
    train_seconds = time.perf_counter() - begin - evaluating
    metadata = load(policy, args.checkpoint or run / "policy.safetensors", {})
    results = metadata | evaluate(envs, policy, args.eval_episodes, eval_seed)
    worst, best, mean = results["random_return"], results["expert_return"], results["return_mean"]
    results |= {"normalized_return": (mean - worst) / (best - worst), "train_seconds": train_seconds}
    results |= {"updates_per_second": num_updates / train_seconds, "total_seconds": time.time() - start}
    results["versions"] = {name: version(name) for name in ("torch", "gymnasium", "mujoco", "numpy")}
    results["num_parameters"] = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    (run / "results.json").write_text(json.dumps(results, indent=2))
    writer.add_scalar("eval/return", mean, num_updates)
    writer.close()
    if args.capture_video:
        record = [lambda env: gym.wrappers.RecordVideo(env, str(run / "videos"), episode_trigger=lambda k: k < 3)]
        evaluate(make_envs(args.env_id, 1, render_mode="rgb_array", wrappers=record), policy, 3, eval_seed)
    success = f", success {results['success_rate']:.1%}" if "success_rate" in results else ""
    score = f"return {mean:.2f} ± {results['return_std']:.2f}{success}, normalised {results['normalized_return']:.3f}"
    print(f"{algorithm} on {args.env_id}: {score} (expert {best:.2f}); {time.time() - start:.0f} s; {run}")


if __name__ == "__main__":
    try:
        main(tyro.cli(Args))
    except (OSError, SafetensorError) as error:  # a full disk, for one
        fail(f"{error}; what was saved before is whole", status=1)
