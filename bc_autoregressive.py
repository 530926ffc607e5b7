"""Behaviour cloning over bins: each dimension of the action is drawn given those before it.

    pi(a|s) = prod_d p(b_d | a_<d, s) / width_d,   b_d the bin that a_d lies in         (1)
    L = E_(s, a) -sum_d sum_b q_d(b) log p(b | a_<d, s),
        q_d(b) ∝ exp(-(a_d - centre_b)^2 / (2 bandwidth_d^2))                           (2)
    a_d <- sum_b r_b centre_b,
        r_b ∝ p(b | a_<d, s) exp(-(a_d - centre_b)^2 / (2 (2 bandwidth_d)^2))           (3)

Metz et al., "Discrete Sequential Prediction of Continuous Actions for Deep RL", 2017
(https://arxiv.org/abs/1705.05035). Brohan et al., "RT-1", 2022 (https://arxiv.org/abs/2212.06817),
is a robot policy over bins. The soft labels q are those of Imani & White, "Improving Regression
Performance with Distributional Losses", 2018 (https://arxiv.org/abs/1806.04613).

Differences from the papers:
- Metz et al. learn values. Here later dimensions see a_d as a sum of embeddings, weighted by q_d.
- The bins reach three bandwidths beyond the demonstrations, so that q is symmetric at their bounds.

Discrete and MultiDiscrete action spaces need no bins: q is one-hot, the policy a Categorical.

At test time dimension after dimension draws a bin from p; its centre takes three mean-shift steps
(3) towards the mode that it belongs to. Their kernel is twice as wide as q's, to average over stray
bins: modes less than 4.5 bandwidths apart become one.

    python bc_autoregressive.py --env-id Hopper-v4  # 3659 ± 54 over 5 seeds
"""

import argparse
import json
import math
import re
import signal
import sys
import time
from collections import Counter, namedtuple
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import gymnasium as gym
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
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
    # --- Autoregressive ---
    num_bins: int = 256  # for each dimension of a continuous action
    smoothing: float = 0.3  # bandwidth of q, in standard deviations of the demonstrated actions

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
        if self.num_bins < 2:
            raise ValueError("num_bins must be at least 2")
        if not 0 < self.smoothing < math.inf:
            raise ValueError("smoothing must be above 0")


class Policy(nn.Module):
    """pi(a|s). Statistics of the demonstrations are buffers, so that a saved policy is complete."""

    def __init__(self, obs_space, action_space, hidden_dim=256, num_bins=256, smoothing=0.3):
        super().__init__()
        obs_dim = obs_space.shape[0]
        self.action_space = action_space
        self.continuous = isinstance(action_space, gym.spaces.Box)
        self.smoothing = smoothing
        if self.continuous:
            low, high = action_space.low, action_space.high
            sizes = np.full(action_space.shape, num_bins)
        else:  # the categories start, start + 1, ..., start + size - 1
            if isinstance(action_space, gym.spaces.Discrete):
                sizes = np.array([action_space.n])
            else:
                sizes = action_space.nvec
            low = np.atleast_1d(action_space.start)
            high = low + sizes - 1
        self.D = len(sizes)
        self.H = math.ceil(hidden_dim / 4)
        self.B = int(max(sizes))

        self.net = nn.Sequential(
            nn.Linear(obs_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, self.D * self.H),
        )
        self.embedding = nn.Parameter(torch.randn(self.D, self.B, self.H))
        self.head = nn.Parameter(torch.randn(self.D, self.H, self.B) / math.sqrt(self.H))
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        self.register_buffer("action_low", torch.tensor(low, dtype=torch.float32))
        self.register_buffer("action_high", torch.tensor(high, dtype=torch.float32))

        # A dimension with fewer categories than another has bins that are never drawn.
        missing = torch.arange(self.B) >= torch.as_tensor(sizes)[:, None]  # (D, B)
        self.register_buffer("mask", torch.where(missing, -1e9, 0.0))
        centres = self.action_low[:, None] + torch.arange(self.B)
        self.register_buffer("centres", torch.where(missing, 1e9, centres))
        self.register_buffer("bandwidth", torch.full((self.D, 1), 0.1))
        self.register_buffer("width", torch.ones(self.D))

    def set_statistics(self, obs, actions):
        self.obs_mean, self.obs_std = mean_and_std(obs)
        if self.continuous:
            bandwidth = self.smoothing * actions.std(0, correction=0)
            low = actions.amin(0) - 3 * bandwidth
            high = actions.amax(0) + 3 * bandwidth
            width = (high - low).clamp(min=1e-3) / self.B
            positions = torch.arange(self.B, device=low.device) + 0.5
            self.centres.copy_(low[:, None] + width[:, None] * positions)
            self.bandwidth.copy_(torch.maximum(bandwidth, width / 2)[:, None])
            self.width.copy_(width)

    def soft_labels(self, actions, d=slice(None)):
        """q_d(b) (N, D, B) for actions (N, D), or (N, B) for a single dimension d and (N,)."""
        z = (actions[..., None] - self.centres[d]) / self.bandwidth[d]
        return (-0.5 * z.square()).softmax(-1)

    def context(self, obs):
        """What each dimension sees of the observation (N, D, H)."""
        obs = ((obs - self.obs_mean) / self.obs_std).clamp(-10, 10)
        return self.net(obs).unflatten(-1, (self.D, self.H))

    def forward(self, obs, q):
        """log p(b | a_<d, s) (N, D, B) of all dimensions at once, given the soft labels q."""
        embedded = torch.einsum("ndb,dbh->ndh", q, self.embedding)
        before = F.pad(embedded[:, :-1].cumsum(1), (0, 0, 1, 0))  # of the dimensions before d
        hidden = F.gelu(self.context(obs) + before)
        logits = torch.einsum("ndh,dhb->ndb", hidden, self.head) + self.mask
        return logits.log_softmax(-1)

    def log_prob(self, obs, actions):
        """log pi(a|s) (N,) in nats, for actions (N, D) in the environment's units."""
        log_p = self(obs, self.soft_labels(actions))
        bins = (actions[..., None] - self.centres).abs().argmin(-1, keepdim=True)  # (N, D, 1)
        return (log_p.gather(-1, bins).squeeze(-1) - self.width.log()).sum(-1)  # (1)

    def loss(self, obs, actions):
        q = self.soft_labels(actions)
        return -(q * self(obs, q)).sum((1, 2)).mean()  # (2)

    @torch.inference_mode()
    def act(self, obs):
        """Like an expert, from numpy to numpy: obs (N, obs_dim) to actions (N, ...)."""
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        context = self.context(obs)
        before = torch.zeros_like(context[:, 0])
        actions = []
        for d in range(self.D):
            logits = F.gelu(context[:, d] + before) @ self.head[d] + self.mask[d]  # (N, B)
            b = torch.multinomial(logits.softmax(-1), 1)
            action = self.centres[d][b]  # (N, 1)
            for _ in range(3):
                z = (action - self.centres[d]) / (2 * self.bandwidth[d])
                r = (logits - 0.5 * z.square()).softmax(-1)
                action = (r * self.centres[d]).sum(-1, keepdim=True)  # (3)
            actions.append(action)
            before = before + self.soft_labels(action[:, 0], d) @ self.embedding[d]

        actions = torch.cat(actions, dim=-1).clamp(self.action_low, self.action_high)
        if not self.continuous:
            actions = actions.round()
        shape = (len(obs), *self.action_space.shape)
        return actions.reshape(shape).cpu().numpy().astype(self.action_space.dtype)


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
    """Environments stepped side by side, with flat observations and actions."""
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
    kinds = (gym.spaces.Box, gym.spaces.MultiDiscrete)
    is_flat = isinstance(action_space, kinds) and len(action_space.shape) == 1
    if not is_flat and not isinstance(action_space, gym.spaces.Discrete):
        fail(
            f"{name} has actions {action_space}; a flat Box, Discrete or a flat "
            "MultiDiscrete is needed"
        )
    if envs.envs[0].spec.max_episode_steps is None:
        fail(f"{name} does not limit its episodes; give --max-episode-steps")
    return envs


Episode = namedtuple("Episode", "obs actions rewards info")


def rollout(envs, act, num_episodes, seed, title=None):
    """Play whole episodes; number k starts from the seed `seed + k`."""
    episodes = []
    progress = tqdm(desc=title, unit=" steps", leave=False, disable=None)
    while len(episodes) < num_episodes:
        obs, _ = envs.reset(seed=seed + len(episodes))  # environment i gets this seed + i
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


def to_tensors(episodes, device):
    """All observations (T, obs_dim) and actions (T, act_dim) in a row."""
    obs = np.concatenate([episode.obs for episode in episodes])
    actions = np.concatenate([episode.actions for episode in episodes])
    actions = actions.reshape(len(obs), -1)  # Discrete actions have no dimension of their own
    return [torch.tensor(x, dtype=torch.float32, device=device) for x in (obs, actions)]


def evaluate(args, envs, policy, num_episodes):
    """Returns; and the success rate and the modes of successes, if the environment reports them."""
    # The seeds of the demonstrations begin at 1_000_000 * args.seed, so these episodes are new.
    with torch.random.fork_rng():  # so that what is drawn here depends on the seed alone
        torch.manual_seed(args.seed)
        seed = 1_000_000 * args.seed + 500_000
        episodes = rollout(envs, policy.act, num_episodes, seed, "evaluation")
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
    obs, actions = to_tensors(demos[: args.num_demos], args.device)
    held_out = to_tensors(demos[args.num_demos :], args.device)
    policy.set_statistics(obs, actions)
    optimizer = torch.optim.AdamW(policy.parameters(), fused=True)

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
        rollout(envs, policy.act, 1, seed, "video")
        (frames,) = envs.render()  # all since the start of the episode
        clip = ImageSequenceClip(frames, fps=frames_per_second)
        clip.write_videofile(run / "videos" / f"episode-{number}.mp4", logger=None)
    envs.close()


def make_policy(args, envs):
    spaces = envs.single_observation_space, envs.single_action_space
    return Policy(*spaces, args.hidden_dim, args.num_bins, args.smoothing).to(args.device)


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
