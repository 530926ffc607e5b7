"""HG-DAgger: the novice acts, a person takes over when it errs, and only that is labelled.

    D <- the expert's own episodes,  pi_0 <- train(D)
    for i = 1, 2, ...:
        act by the expert where the gate g(s) = 1, else by the novice pi_(i-1)          (1)
        D <- D + {(s, pi*(s)) for every s with g(s) = 1}                                (2)
        pi_i <- train(D)                                                                (3)
    doubt(s) = || the variance over E networks of each standardised output ||_2         (4)
    tau = mean of the last quarter of the doubts at which the expert took over          (5)

Kelly, Sidrane, Driggs-Campbell & Kochenderfer, "HG-DAgger: Interactive Imitation Learning with
Human Experts", ICRA 2019 (https://arxiv.org/abs/1810.02890). The novice is the mean of E networks
that differ in their initial weights alone. Doubt and its threshold tau are reported; they decide
nothing during training.

The gate is a person (--gate human: hold a key to take over) or, by default, a rule that computes
what SafeDAgger (https://arxiv.org/abs/1605.06450) predicts: it takes over where expert and novice
disagree by more than a threshold, on average over the last steps. It hands back at half of it, a
second threshold as in LazyDAgger (https://arxiv.org/abs/2104.00053).

Differences from the paper:
- The first demonstrations come from an expert or a data set; the person gives none.
- pi_i starts from the weights of pi_(i-1), with the statistics of the new D and a fresh optimiser.
- Squared loss of standardised actions for Box, cross-entropy for Discrete action spaces, whose
  outputs in (4) are probabilities.
- AdamW; its rate falls to zero in each round.

    python hg_dagger.py --env-id Hopper-v4  # return 3745, std 3 over 5 seeds
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
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from experts import load_expert
from experts.human import HumanExpert


@dataclass
class Args:
    # --- Task and demonstrations ---
    env_id: str = "Hopper-v4"  # any Gymnasium id, module:Env-v0 included
    num_envs: int = 25  # environments stepped together
    max_episode_steps: int | None = None  # None: the environment's own limit
    num_demos: int = 10  # expert episodes before the first round
    expert: str | None = None  # your own expert, as module:callable
    dataset: str | None = None  # a local Minari data set, in place of the expert's episodes
    # --- Training ---
    seed: int = 0  # of demonstrations, network, batches and evaluation
    num_updates: int = 20_000  # gradient steps in total, shared equally by rounds 0, 1, ...
    batch_size: int = 256  # transitions in a gradient step
    learning_rate: float = 1e-3  # at its peak, after a linear warm-up; then cosine to 0
    hidden_dim: int = 256  # width of the hidden layers
    device: Literal["cpu", "cuda"] = "cpu"  # cuda is faster for much larger networks only
    # --- Evaluation and output ---
    eval_episodes: int = 50  # episodes of the final evaluation
    capture_video: bool = False  # record three episodes of the final policy
    resume: str | None = None  # continue the run in this directory, with the same flags
    run_dir: str = "runs"  # each run makes its own directory in here
    # --- HG-DAgger ---
    num_rounds: int = 10  # rounds after the demonstrations; 0 is behaviour cloning
    episodes_per_round: int = 4  # in each round
    ensemble_size: int = 5  # E, the networks whose mean acts
    gate: Literal["simulated", "human"] = "simulated"  # human: you, at the keyboard
    gate_threshold: float = 0.12  # the rule takes over above this disagreement, see `distance`
    gate_steps: int = 5  # time constant of the running mean of the disagreement, in steps
    label_share: float = 1.0  # keep each label with this probability, demonstrations too

    def __post_init__(self):  # tyro shows what is raised here as a usage error
        may_be_zero = ("seed", "num_rounds")
        for name, value in vars(self).items():
            if type(value) in (int, float) and name not in may_be_zero and not 0 < value < math.inf:
                raise ValueError(f"{name} must be positive and finite")
        if not 0 <= self.num_rounds < self.num_updates:
            raise ValueError("num_rounds must be at least 0 and less than num_updates")
        if self.label_share > 1:
            raise ValueError("label_share must be at most 1")


class Policy(nn.Module):
    """The novice: E networks. Their mean acts, and their variance is the doubt."""

    def __init__(self, obs_space, action_space, args):
        super().__init__()
        self.action_space = action_space
        obs_dim = obs_space.shape[0]
        self.discrete = isinstance(action_space, gym.spaces.Discrete)
        num_outputs = int(action_space.n) if self.discrete else action_space.shape[0]
        self.nets = nn.ModuleList()
        for _ in range(args.ensemble_size):
            net = nn.Sequential(
                nn.Linear(obs_dim, args.hidden_dim),
                nn.GELU(),
                nn.Linear(args.hidden_dim, args.hidden_dim),
                nn.GELU(),
                nn.Linear(args.hidden_dim, num_outputs),
            )
            self.nets.append(net)
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        if self.discrete:
            self.start = int(action_space.start)  # categories are start, start + 1, ...
        else:
            self.register_buffer("action_mean", torch.zeros(num_outputs))
            self.register_buffer("action_std", torch.ones(num_outputs))

    def set_statistics(self, obs, actions):
        self.obs_mean, self.obs_std = mean_and_std(obs)
        if not self.discrete:
            self.action_mean, self.action_std = mean_and_std(actions)

    def forward(self, obs):
        """Standardised actions (E, B, act_dim), or logits (E, B, n), of all networks."""
        # An input that hardly varies in the labelled states can be huge in new states.
        obs = ((obs - self.obs_mean) / self.obs_std).clamp(-10, 10)
        return torch.stack([net(obs) for net in self.nets])

    def loss(self, obs, actions):
        if self.discrete:
            labels = (actions - self.start).repeat(len(self.nets))
            return F.cross_entropy(self(obs).flatten(0, 1), labels)
        target = (actions - self.action_mean) / self.action_std
        return (self(obs) - target).square().sum(-1).mean()

    @torch.inference_mode()
    def act(self, obs):
        """Like an expert, from numpy to numpy: obs (N, obs_dim) to actions (N, act_dim) or (N,)."""
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        if self.discrete:
            return (self.start + self(obs).softmax(-1).mean(0).argmax(-1)).cpu().numpy()
        actions = self.action_mean + self.action_std * self(obs).mean(0)
        return actions.cpu().numpy().clip(self.action_space.low, self.action_space.high)

    @torch.inference_mode()
    def doubt(self, obs):
        """How much the networks differ (N,), on obs (N, obs_dim), all numpy."""
        obs = torch.as_tensor(obs, dtype=torch.float32, device=self.obs_mean.device)
        outputs = self(obs).softmax(-1) if self.discrete else self(obs)
        variance = (outputs - outputs.mean(0)).square().mean(0)
        return variance.norm(dim=-1).cpu().numpy()  # (4)

    def distance(self, actions, others):
        """Root mean square over dimensions (N,), in standard deviations; 0 or 1 for categories."""
        if self.discrete:
            return (actions != others).astype(float)
        z = (actions - others) / self.action_std.cpu().numpy()
        return np.sqrt(np.square(z).mean(-1))


class SimulatedGate:
    """Stands in for the person, and knows the expert. `HumanExpert` answers the same calls."""

    progress = tqdm  # a person's progress bar draws the window as well
    round_over = False  # whether a person has ended the round early
    closed = False  # whether they have closed the window, and so the run

    def __init__(self, args, envs, policy):
        self.args = args
        self.action_space = envs[0].action_space
        self.policy = policy

    def begin_round(self, i, seed):
        self.expert = load_expert(self.args.env_id, self.args.expert, seed)
        self.states = []
        self.labels = []
        self.take_overs = []

    def begin_episode(self, num_envs):
        self.control = np.zeros(num_envs, dtype=bool)
        self.disagreement = np.zeros(num_envs)  # its exponential running mean

    def __call__(self, obs, proposals, running):
        """The expert's actions, and g(s) (N,): where it is in control. Keeps those labels."""
        corrections = np.array(self.expert(obs.copy()))
        check(self.action_space, obs[running], corrections[running])
        distance = self.policy.distance(corrections, proposals)
        self.disagreement += (distance - self.disagreement) / self.args.gate_steps
        # Handing back at half of the threshold keeps control from flickering.
        threshold = np.where(self.control, 0.5, 1.0) * self.args.gate_threshold
        had_control = self.control
        self.control = self.disagreement > threshold  # g(s)

        labelled = running & self.control
        self.states.append(obs[labelled])
        self.labels.append(corrections[labelled])
        self.take_overs.append(obs[labelled & ~had_control])
        return corrections, self.control

    def end_round(self):
        """Lists of states (M, obs_dim), of their labels, and of the states at take-over."""
        return self.states, self.labels, self.take_overs


def mean_and_std(x):
    """For standardising x (M, dim). Constant dimensions keep scale 1."""
    x = x.double()
    std = x.std(0, correction=0)
    std = torch.where(std > 1e-6, std, 1.0)
    return x.mean(0).float(), std.float()


def hg_dagger(args, policy, obs, actions, results, envs, run, writer):
    """Run the rounds that are not yet in `results`. D is (obs, actions); round 0 only trains.

    A round depends on its seeds, the weights and D alone, so that --resume repeats it exactly. A
    person plays a round that was stopped once more; the corrections that they gave in it count.
    """
    num_updates = args.num_updates // (args.num_rounds + 1)
    if args.gate == "human":
        round_envs = make_envs(args, 1, render_mode="rgb_array")
        gate = HumanExpert(args, round_envs, run)
    else:
        round_envs = make_envs(args, min(args.num_envs, args.episodes_per_round))
        gate = SimulatedGate(args, round_envs, policy)
    remaining = range(len(results["rounds"]), args.num_rounds + 1)
    progress = gate.progress(total=num_updates * len(remaining), unit=" updates", disable=None)
    for i in remaining:
        torch.manual_seed(1_000_000 * args.seed + 600_000 + i)
        if i > 0:
            play_round(args, round_envs, policy, gate, i)
            states, labels, take_overs = gate.end_round()
            if gate.closed and not any(map(len, labels)):
                break  # nothing was labelled: --resume plays this round
            results["doubts"] += policy.doubt(np.concatenate(take_overs)).tolist()
            rng = np.random.default_rng(1_000_000 * args.seed + 800_000 + i)
            states, labels = to_tensors(args, states, labels, rng)
            obs = torch.cat([obs, states])  # (2)
            actions = torch.cat([actions, labels])
        if results["doubts"]:
            last_quarter = results["doubts"][len(results["doubts"]) * 3 // 4 :]
            results["tau"] = float(np.mean(last_quarter))  # (5)
            writer.add_scalar("round/tau", results["tau"], i)

        loss = train(args, policy, obs, actions, num_updates, progress)  # (3)
        return_mean = evaluate(args, envs, policy, len(envs))["return_mean"]
        summary = {"expert_labels": len(obs), "loss": loss, "return_mean": return_mean}
        for name, value in summary.items():
            writer.add_scalar(f"round/{name}", value, i)
        progress.set_postfix(round=i, labels=len(obs), last_return=f"{return_mean:.2f}")
        results["rounds"].append(summary)
        results["expert_labels"] = len(obs)
        state = {"policy": policy.state_dict(), "obs": obs, "actions": actions, "results": results}
        torch.save(state, run / "state.tmp")
        (run / "state.tmp").replace(run / "state.pt")  # atomic: a kill loses one round at most
        if gate.closed:
            break
    progress.close()


def play_round(args, envs, policy, gate, i):
    """Play round i; the gate keeps its labels."""
    seed = 1_000_000 * args.seed + 600_000 + (i - 1) * args.episodes_per_round
    gate.begin_round(i, 1_000_000 * args.seed + 700_000 + i)
    for first in range(0, args.episodes_per_round, len(envs)):
        starts = [env.reset(seed=seed + first + n)[0] for n, env in enumerate(envs)]
        obs = np.stack(starts, dtype=envs[0].observation_space.dtype)
        running = first + np.arange(len(envs)) < args.episodes_per_round
        gate.begin_episode(len(envs))
        while running.any() and not gate.round_over:
            actions = policy.act(obs)
            corrections, control = gate(obs, actions, running)
            actions[control] = corrections[control]  # (1)
            for n in np.flatnonzero(running):
                obs[n], _, terminated, truncated, _ = envs[n].step(actions[n].copy())
                running[n] = not (terminated or truncated)


def train(args, policy, obs, actions, num_updates, progress):
    """Fit the policy to all labels so far, with a fresh optimiser; returns the last loss."""
    policy.set_statistics(obs, actions)
    optimizer = torch.optim.AdamW(policy.parameters(), weight_decay=0.01, fused=True)
    for update in range(1, num_updates + 1):
        # The rate falls to zero, and with it the noise of the batches: the last policy can be kept.
        fraction = update / num_updates
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
        progress.update()
    return loss.item()


def make_envs(args, num_envs, **kwargs):
    """A list of environments with flat observations and flat Box or Discrete actions."""
    kwargs["max_episode_steps"] = args.max_episode_steps
    envs = [gym.make(args.env_id, **kwargs) for _ in range(num_envs)]
    obs_space, action_space = envs[0].observation_space, envs[0].action_space
    discrete = isinstance(action_space, gym.spaces.Discrete)
    for space in [obs_space] if discrete else [obs_space, action_space]:
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
    """Whole episodes of the expert or of a local Minari data set."""
    envs = make_envs(args, min(args.num_envs, args.num_demos))
    if args.dataset is not None:
        import minari  # pip install 'minari[hdf5]'

        dataset = minari.load_dataset(args.dataset)
        if dataset.env_spec is not None and dataset.env_spec.id != envs[0].spec.id:
            gym.logger.warn(f"{args.dataset} was recorded in {dataset.env_spec.id}")
        recorded = dataset.iterate_episodes(range(args.num_demos))
        episodes = [Episode(e.observations[:-1], e.actions, e.rewards, {}) for e in recorded]
    else:
        expert = load_expert(args.env_id, args.expert, 1_000_000 * args.seed + 700_000)
        episodes = rollout(envs, expert, args.num_demos, 1_000_000 * args.seed)
    for episode in episodes:
        check(envs[0].action_space, episode.obs, episode.actions)
    return episodes


def check(space, obs, actions):
    """Refuse data that would train without an error: wrong pairs, NaN, actions out of bounds."""
    actions = actions.astype(space.dtype, casting="same_kind")  # refuses floats for integers
    if actions.shape != (len(obs), *space.shape):
        raise gym.error.Error(f"{len(obs)} observations have actions of shape {actions.shape}")
    finite = np.isfinite(obs).all() and np.isfinite(actions).all()
    if not finite or actions.min(0) not in space or actions.max(0) not in space:
        raise gym.error.Error(f"observations and actions must be finite, and actions in {space}")


def to_tensors(args, obs, actions, rng):
    """Concatenated states (M, obs_dim) and labels (M, act_dim) or (M,): those that are kept."""
    obs = np.concatenate(obs)
    actions = np.concatenate(actions)
    kept = rng.random(len(obs)) < args.label_share
    dtype = torch.int64 if actions.ndim == 1 else torch.float32
    obs = torch.tensor(obs[kept], dtype=torch.float32, device=args.device)
    return obs, torch.tensor(actions[kept], dtype=dtype, device=args.device)


def evaluate(args, envs, policy, num_episodes):
    """Returns, and if the environment reports them the success rate and the modes of successes."""
    # Seeds: 1_000_000 * args.seed for demonstrations, + 500_000 here, + 600_000 for the rounds,
    # + 700_000 for the expert, + 800_000 for the other draws of a round.
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
    results = {"algorithm": Path(__file__).stem, "args": asdict(args), "rounds": [], "doubts": []}
    name = f"{args.env_id}__{results['algorithm']}__{args.seed}__{time.time_ns() // 1_000_000}"
    run = Path(args.resume or Path(args.run_dir) / name.replace(":", "-").replace("/", "-"))
    if args.resume is not None:
        state = torch.load(run / "state.pt", args.device, weights_only=True)  # runs no code
        changed = {name for name, _ in asdict(args).items() ^ state["results"]["args"].items()}
        changed -= {"resume", "run_dir", "num_rounds", "eval_episodes", "capture_video"}
        if changed:
            raise gym.error.Error(f"--resume needs the flags of the run; changed: {changed}")
        policy.load_state_dict(state["policy"])
        obs, actions = state["obs"], state["actions"]
        results.update(state["results"], args=asdict(args))
    else:
        demos = collect_demonstrations(args)
        results["expert_return"] = float(np.mean([demo.rewards.sum() for demo in demos]))
        rng = np.random.default_rng(1_000_000 * args.seed + 800_000)
        obs, actions, _, _ = zip(*demos, strict=True)
        obs, actions = to_tensors(args, obs, actions, rng)

    run.mkdir(parents=True, exist_ok=args.resume is not None)
    writer = SummaryWriter(run)
    hg_dagger(args, policy, obs, actions, results, envs, run, writer)
    save_file(policy.state_dict(), run / "policy.safetensors")

    results |= evaluate(args, envs, policy, args.eval_episodes)
    results["seconds"] = time.time() - start
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
