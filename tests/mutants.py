"""Breaks the scripts in one place at a time, to see that a test notices: python -m tests.mutants

Each mutation replaces a text, which must occur exactly once, in a copy of the repository, and says
which tests should fail. The table that is printed says which one did. The exit status is 1 if a
mutation survives, if its text has gone, or if its tests are none or fail without it.

    python -m tests.mutants hg_dagger gate     # those that contain each of these words
"""

import functools
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
from collections import namedtuple
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
COPIED = ["*.py", "pyproject.toml", "experts/*.py", "experts/weights/*", "tests/*.py"]
SECONDS = 300  # in which the tests of one mutation must end, on a busy machine too
Mutation = namedtuple("Mutation", "script old new file tests")

# A script, a file of tests and an expression for pytest -k; below them a mutation a line. What all
# scripts share is mutated in one of them, because tests/test_twins.py holds them together.
TABLE = r"""
# bc_mse test_policies bc_mse
(actions - self.action_mean) / self.action_std => actions - self.action_mean
(self(obs) - target).square().sum(-1) => (self(obs) - target).abs().sum(-1)
.square().sum(-1).mean()  # (1) => .square().mean()
.clamp(-10, 10) =>
self.action_mean + self.action_std * self(obs) => self.action_std * self(obs)
actions.cpu().numpy().clip(self.action_space.low, self.action_space.high) => actions.cpu().numpy()
x.std(0, correction=0) => x.std(0)
torch.where(std > 1e-6, std, 1.0) => std

# bc_mse test_shared evaluation_has_seeds
rollout(envs, policy.act, num_episodes, 1_000_000 * args.seed + 500_000)
    => rollout(envs, policy.act, num_episodes, 1_000_000 * args.seed)

# bc_mse test_dataset cloning or refused
check(envs[0].action_space, episode.obs, episode.actions) => pass
e.observations[:-1] => e.observations[1:]
iterate_episodes(range(num_episodes)) => iterate_episodes(range(1, 1 + num_episodes))

# bc_gaussian test_policies gaussian
- sigma.log() - 0.5 * math.log(2 * math.pi)  # (1) => - sigma.log()
(log_normal - self.action_std.log()).sum(-1) => log_normal.sum(-1)
-self.log_prob(obs, actions).mean()  # (2) => -self.log_prob(obs, actions).sum()
self.min_std + F.softplus(raw_sigma) => F.softplus(raw_sigma).clamp(self.min_std)
if self.stochastic else mu => if True else mu
torch.normal(mu, sigma) if self.stochastic else mu => mu

# bc_mog test_policies mog
(log_w + log_normal.sum(-1)).logsumexp(-1)  # (1) => (log_w + log_normal.mean(-1)).logsumexp(-1)
log_mixture - self.action_std.log().sum() => log_mixture
F.log_softmax(logits, dim=-1) => logits
nn.init.normal_( => nn.init.zeros_(
self.min_std + F.softplus(raw_sigma) => F.softplus(raw_sigma)
torch.multinomial(log_w.exp(), 1).squeeze(-1) => log_w.argmax(-1)
mu[torch.arange(len(mu)), k]  # (3) => (log_w.exp()[:, :, None] * mu).sum(1)

# bc_mog test_shared episodes_are_whole and bc_mog
seed=seed + first + n) => seed=seed + n)
running = first + np.arange(len(envs)) < num_episodes
    => running = np.arange(len(envs)) < num_episodes
act(obs.copy()) => act(obs)
envs[n].step(action.copy()) => envs[n].step(action)
actions[running], strict=True => actions, strict=False
(obs[n].copy(), action, reward) => (obs[n], action, reward)
truncated, infos[n] = => truncated, infos[0] =
if terminated or truncated: => if truncated:
running[n] = False => running[:] = False

# bc_mog test_shared held_out or refused
args.num_demos + math.ceil(args.num_demos / 10) => args.num_demos + args.num_demos // 10
rollout(envs, expert, num_episodes, 1_000_000 * args.seed)
    => rollout(envs, expert, num_episodes, args.seed)
casting="same_kind" => casting="unsafe"
actions.shape != (len(obs), *space.shape) => len(actions) != len(obs)
(len(obs), *space.shape): => (len(actions), *space.shape):
np.isfinite(obs).all() and => True and
actions.min(0) not in space or => False or
or actions.max(0) not in space => or False

# bc_mog test_shared learns_from and bc_mog
args.seed + 700_000 => args.seed
episodes[args.num_demos :] => episodes[: args.num_demos]
to_tensors(demos, args.device) => to_tensors(demos + held_out, args.device)
to_tensors(held_out, args.device) => to_tensors(demos, args.device)
policy.set_statistics(obs, actions) => policy.set_statistics(*held_out)
fraction / 0.05 => fraction / 0.1
0.5 * (1 + math.cos(math.pi * fraction)) => math.cos(0.5 * math.pi * fraction)
min(warm_up, cosine) => max(warm_up, cosine)
torch.randint(len(obs), => torch.randint(len(obs) // 2,
optimizer.zero_grad() => pass
policy.loss(*held_out), update => loss, update
with torch.no_grad(): => if True:
update % args.eval_every == 0 and => True and
and update < args.num_updates: => and True:
demo.rewards.sum() for demo in demos => demo.rewards.sum() for demo in held_out
len(demo.obs) for demo in demos => len(demo.obs) for demo in demos + held_out

# bc_mog test_shared bc_mog and (evaluation or videos or seed_repeats)
rollout(envs, policy.act, num_episodes, 1_000_000 * args.seed + 500_000)
    => rollout(envs, policy.act, num_episodes, 1_000_000 * args.seed)
with torch.random.fork_rng(): => if True:
torch.manual_seed(args.seed)\n        episodes => episodes
torch.manual_seed(args.seed)\n    envs => envs
float(episode.rewards.sum()) => float(episode.rewards[-1])
len(successes) / num_episodes => len(successes) / len(successes)
for episode in episodes if episode.info.get("is_success")] => for episode in episodes]
args.seed + 500_000 + number => args.seed + 500_000

# bc_mse test_cli bc_mse or usage_error
policy.load_state_dict(load_file(args.checkpoint)) => pass
kwargs["max_episode_steps"] = args.max_episode_steps => pass
not 0 < value < math.inf => not 0 <= value < math.inf
or len(space.shape) != 1: => or False:
if envs[0].spec.max_episode_steps is None: => if False:
sys.exit(f"error: {error}") => sys.exit(0)

# bc_autoregressive test_autoregressive
(log_p - self.width.log()).sum(-1)  # (1) => log_p.sum(-1)
-(q * self(obs, q)).sum((1, 2)).mean()  # (2) => -(q * self(obs, q)).sum(2).mean()
(-0.5 * z.square()).softmax(-1)  # q of (2) => (-z.square()).softmax(-1)
(r @ centres)[:, None]  # (3) => action
for _ in range(3):\n => for _ in range(2):\n
action[:, 0].clamp(self.low[d], self.high[d]) => action[:, 0]
action = action.round() => pass
(2 * self.bandwidth[d]) => self.bandwidth[d]
r = (logits - 0.5 * z.square()) => r = (-0.5 * z.square())
torch.multinomial(logits.softmax(-1), 1) => logits.argmax(-1, keepdim=True)
F.pad(embedded[:, :-1].cumsum(1), (0, 0, 1, 0)) => embedded.cumsum(1)
embedded[:, :-1].cumsum(1) => embedded[:, :-1]
before = before + self.soft_labels => before = self.soft_labels
self.head) + self.mask => self.head)
@ self.head[d] + self.mask[d] => @ self.head[d]
actions.amin(0) - 3 * bandwidth => actions.amin(0)
actions.amax(0) + 3 * bandwidth => actions.amax(0)
torch.maximum(bandwidth, self.width / 2) => bandwidth
device=obs.device) + 0.5 => device=obs.device)
self.low = np.atleast_1d(action_space.start) => self.low = np.zeros(len(sizes))

# bc_autoregressive test_cli refused and bc_autoregressive
or len(action_space.shape) > 1: => or False:

# bc_autoregressive test_dataset categories
actions = actions.reshape(len(obs), -1) => pass

# bc_diffusion test_diffusion not exact_network and not bc_flow
+ (1 - abar).sqrt() * eps  # (1) => + (1 - abar) * eps
randint(1, self.args.num_diffusion_steps + 1 => randint(0, self.args.num_diffusion_steps + 1
.clamp(1, 20) => .clamp(max=20)
(weight * (x0 - prediction).square()) => (weight * (x0 - prediction)).square()
(weight * (x0 - prediction).square()).sum(-1).mean()  # (2) => (x0 - prediction).square().sum()
if self.predict_noise:\n => if False:\n
if self.predict_noise else prediction => if False else prediction
abar.sqrt(), (1 - abar).sqrt()], => abar, 1 - abar],
(fraction + 0.008) / 1.008 => fraction
.clamp(min=0.001) => .clamp(min=0.01)
max(i, math.ceil(last * i**2 / n**2)) => math.ceil(last * i**2 / n**2)
last * i**2 / n**2 => last * i / n
x0 = x0.clamp(-1, 1) => pass
(x - signal * x0) / noise  # (3) => (x - x0) / noise
* (1 - abar[t] / abar[next_t]) =>
== "ddpm" else => != "ddpm" else
1 - abar[next_t] - sigma**2) => 1 - abar[next_t])
math.sqrt(abar[next_t]) * x0 + eps_scale * eps + sigma * z  # (4)
    => x0 + eps_scale * eps + sigma * z
low = actions.amin((0, 1)) => low = actions.mean((0, 1))
torch.where(half_range > 1e-6, half_range, 1.0) => half_range
self.action_centre = low + half_range => self.action_centre = low
x.unflatten(-1, (self.args.horizon, -1)) => x.unflatten(-1, (-1, self.args.horizon)).mT
if not self.queue: => if True:
[:, : self.args.action_horizon] =>
self.queue.popleft() => self.queue.pop()
+ np.arange(horizon) => + 0 * np.arange(horizon)
steps.clip(max=len(steps) - 1) => steps % len(steps)

# bc_diffusion test_cli usage_error
if self.action_horizon > self.horizon: => if False:
if self.num_inference_steps > self.num_diffusion_steps: => if False:

# bc_flow test_diffusion not exact_network and not bc_diffusion
(1 - t) * eps + t * a  # (1) => (1 - t) * eps + a
error.square().sum(-1).mean()  # (3) => error.abs().sum(-1).mean()
(1 - t).clamp(min=0.2) => (1 - t).clamp(min=0.1)
torch.rand(len(a), 1 => torch.randn(len(a), 1
[1 - (1 - i / n) ** 2 for => [i / n for
(self(obs, x, t_column) - x) / (1 - t)  # (2) => self(obs, x, t_column) - x
num_episodes, seed, at_start=policy.queue.clear) => num_episodes, seed)
x + (next_t - t) * velocity  # (4) => x + velocity / self.args.num_inference_steps
torch.cat([obs, x, t], dim=-1) => torch.cat([obs, x, 0 * t], dim=-1)

# bc_flow test_shared bc_flow
at_start()  # drops => pass  # drops
torch.manual_seed(args.seed)\n        seed => seed
seed = 1_000_000 * args.seed + 500_000\n => seed = 1_000_000 * args.seed\n
args.seed + 500_000 + number => args.seed + 500_000
1, seed, at_start=policy.queue.clear) => 1, seed)
to_tensors(held_out, args.horizon, args.device) => to_tensors(demos, args.horizon, args.device)

# dart test_policies squared_loss_is and dart
(self(obs) - target).square().sum(-1).mean()  # (2) => (self(obs) - target).square().mean()

# dart test_dart
rng.normal(0, noise * half_range)  # (1) => rng.normal(0, noise)
disturbed.clip(space.low, space.high) => disturbed
envs[n].step(execute(action)) => envs[n].step(action.copy())
envs[n].step(execute(action)) => envs[n].step(action := execute(action))
np.random.default_rng(1_000_000 * args.seed + 800_000) => np.random.default_rng(0)
rollout(envs, expert, num_episodes, 1_000_000 * args.seed, noise)
    => rollout(envs, expert, num_episodes, args.seed, noise)
policy.act, num_episodes, 1_000_000 * args.seed + 500_000)
    => policy.act, num_episodes, 1_000_000 * args.seed + 500_000, lambda a: 1.1 * a)

# dagger test_labels not hg_dagger and not in_control
actions[expert_acts] = expert_actions[expert_acts]  # (1) => actions = expert_actions
expert_acts = rng.random(len(envs)) < => expert_acts = np.full(len(envs), rng.random()) <
args.beta**i => args.beta
labels.append(expert_actions[running])  # => labels.append(policy.act(obs)[running])  #
obs = torch.cat([obs, visited])  # (2)\n            actions = torch.cat([actions, labels])
    => obs, actions = visited, labels
train(args, policy, obs, actions, num_updates, progress)  # (3)
    => train(args, policy, obs[:-1], actions[:-1], num_updates, progress)
num_updates = args.num_updates // (args.num_rounds + 1) => num_updates = args.num_updates
torch.manual_seed(1_000_000 * args.seed + 600_000 + i) => pass
rng.random(len(obs)) < args.label_share => np.arange(len(obs)) < args.label_share * len(obs)
600_000 + (i - 1) * args.episodes_per_round => 600_000
args.seed + 700_000 + i) => args.seed + 700_000)
rng = np.random.default_rng(1_000_000 * args.seed + 800_000 + i) => rng = np.random.default_rng(i)
rng = np.random.default_rng(1_000_000 * args.seed + 800_000)\n => rng = np.random.default_rng(0)\n
args.episodes_per_round, len(envs)):\n        starts = [env.reset(seed=seed + first + n)
    => args.episodes_per_round, len(envs)):\n        starts = [env.reset(seed=seed + n)
running = first + np.arange(len(envs)) < args.episodes_per_round
    => running = np.arange(len(envs)) < args.episodes_per_round
np.flatnonzero(running):\n                obs[n], => range(len(envs)):\n                obs[n],
running[n] = not (terminated or truncated) => running[n] = not truncated
np.array(expert(obs.copy())) => np.array(expert(obs))
np.array(expert(obs.copy())) => expert(obs.copy())

# dagger test_shared dagger
episodes = rollout(envs, expert, args.num_demos, 1_000_000 * args.seed)
    => episodes = rollout(envs, expert, args.num_demos, args.seed)
torch.manual_seed(args.seed)\n => pass\n
policy.set_statistics(obs, actions) => pass
fraction = update / num_updates => fraction = update / args.num_updates
optimizer.zero_grad() => pass
results["expert_labels"] = len(obs) => results["expert_labels"] = 0

# dagger test_cli usage_error
if not 0 <= self.num_rounds < self.num_updates: => if False:

# dagger test_policies dagger
F.cross_entropy(self(obs), actions - self.start) => F.cross_entropy(self(obs), actions)
self.start + self(obs).argmax(-1) => self(obs).argmax(-1)
(self(obs) - target).square().sum(-1).mean() => (self(obs) - target).square().mean()

# dagger test_dataset refused
check(envs[0].action_space, episode.obs, episode.actions) => pass

# dagger test_dagger not hg_dagger
check(envs[0].action_space, visited[-1], labels[-1]) => pass
torch.int64 if actions.ndim == 1 else torch.float32 => torch.float32
policy.load_state_dict(state["policy"]) => pass
results.update(state["results"], args=asdict(args)) => results.update(state["results"])
range(len(results["rounds"]), args.num_rounds + 1) => range(args.num_rounds + 1)
"obs": obs, "actions": actions, => "obs": obs[:-1], "actions": actions[:-1],
torch.save(state, run / "state.tmp") => torch.save(state, run / "state.pt")
weights_only=True => weights_only=False
if changed: => if False:
changed -= {"resume", "run_dir", "num_rounds", => changed -= {"resume", "run_dir",

# hg_dagger test_labels not labels_every and not probability_beta
actions[control] = corrections[control]  # (1) => actions = corrections
obs = torch.cat([obs, states])  # (2) => obs = torch.cat([states, obs])
len(results["doubts"]) * 3 // 4 => len(results["doubts"]) // 4
results["tau"] = float(np.mean(last_quarter))  # (5) => results["tau"] = float(np.min(last_quarter))
results["doubts"] += => results["doubts"] =
policy.doubt(np.concatenate(take_overs)) => policy.doubt(np.concatenate(states))
np.where(self.control, 0.5, 1.0) => np.where(self.control, 1.0, 1.0)
self.disagreement > threshold => self.disagreement >= threshold
(distance - self.disagreement) / self.args.gate_steps => distance - self.disagreement
np.zeros(num_envs, dtype=bool) => getattr(self, "control", np.zeros(num_envs, dtype=bool))
self.disagreement = np.zeros(num_envs)
    => self.disagreement = getattr(self, "disagreement", np.zeros(num_envs))
labelled = running & self.control => labelled = running
labelled = running & self.control => labelled = self.control
obs[labelled & ~had_control] => obs[labelled]
np.array(self.expert(obs.copy())) => np.array(self.expert(obs))
np.array(self.expert(obs.copy())) => self.expert(obs.copy())
gate.begin_round(i, 1_000_000 * args.seed + 700_000 + i)
    => gate.begin_round(i, 1_000_000 * args.seed + 700_000)
load_expert(self.args.env_id, self.args.expert, seed)
    => load_expert(self.args.env_id, self.args.expert, 0)
rng = np.random.default_rng(1_000_000 * args.seed + 800_000 + i) => rng = np.random.default_rng(i)
600_000 + (i - 1) * args.episodes_per_round => 600_000

# hg_dagger test_policies hg_dagger or ensemble or categories or distance
variance.norm(dim=-1).cpu().numpy()  # (4) => variance.sum(-1).cpu().numpy()
(outputs - outputs.mean(0)).square().mean(0) => outputs.var(0)
self(obs).softmax(-1) if self.discrete else self(obs) => self(obs)
self(obs).softmax(-1).mean(0).argmax(-1) => self(obs).mean(0).argmax(-1)
self.action_std * self(obs).mean(0) => self.action_std * self(obs)[0]
.repeat(len(self.nets)) => .repeat_interleave(len(self.nets))
(actions != others).astype(float) => (actions == others).astype(float)
np.sqrt(np.square(z).mean(-1)) => np.sqrt(np.square(z).sum(-1))
(actions - others) / self.action_std.cpu().numpy() => actions - others

# hg_dagger test_dagger wrong_labels and hg_dagger
check(self.action_space, obs[running], corrections[running]) => pass

# hg_dagger test_human escape or closing
while running.any() and not gate.round_over => while running.any()
if gate.closed and not any(map(len, labels)): => if gate.closed:
"""


def read_table(text):
    mutations = []
    for line in text.strip().replace("\n    =>", " =>").splitlines():
        if line.startswith("# "):
            script, file, *tests = line[2:].split()
        elif line:
            old, new = [side.strip().replace(r"\n", "\n") for side in line.split("=>")]
            mutations.append(Mutation(script, old, new, f"tests/{file}.py", " ".join(tests)))
    return mutations


MUTATIONS = read_table(TABLE)


def mutated(mutation):
    """The text of the script with the mutation."""
    source = (ROOT / f"{mutation.script}.py").read_text()
    count = source.count(mutation.old)
    if count != 1:
        raise LookupError(f"{mutation.script}: {count} times, not once: {mutation.old}")
    return source.replace(mutation.old, mutation.new)


# --- Running the tests on a copy of the repository ---


def copy_repository(folder):
    for pattern in COPIED:
        for path in ROOT.glob(pattern):
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)


def fork(function, log):
    """The exit status of a function in a forked process, which prints to the file `log`."""
    sys.stdout.flush()
    process = os.fork()
    if process == 0:
        output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = 70
        try:
            signal.alarm(SECONDS)
            status = function()
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(status)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)


def run_tests(folder, script, file, tests):
    """pytest's exit status in the copy; 70 if the tests did not import the copy's script."""
    sys.path = [path for path in sys.path if Path(path).resolve() != ROOT]
    for name in list(sys.modules):
        if name.split(".")[0] == "tests":
            del sys.modules[name]
    os.chdir(folder)
    options = ["-q", "-x", "-m", "not slow", "-o", "addopts=", "-p", "no:cacheprovider"]
    status = pytest.main([*options, file, "-k", tests])
    if Path(sys.modules[script].__file__).parent != folder:
        return 70
    return int(status)


@functools.cache
def passes_unchanged(folder, *selection):
    """Tests that fail anyway prove nothing."""
    status = fork(lambda: run_tests(folder, *selection), folder / "log")
    if status != 0:
        print(f"{selection}: {status}\n{(folder / 'log').read_text()[-2000:]}")
    return status == 0


def verdict(folder, mutation):
    """What became of one mutation, and whether that is as it should be."""
    path = folder / f"{mutation.script}.py"
    log = folder / "log"
    selection = mutation.script, mutation.file, mutation.tests
    try:
        text = mutated(mutation)
    except LookupError as error:
        return f"STALE: {error}", False
    if not passes_unchanged(folder, *selection):
        return "FAILS WITHOUT THE MUTATION", False
    path.write_text(text)
    status = fork(lambda: run_tests(folder, *selection), log)
    shutil.copy(ROOT / path.name, path)
    if status == 1:
        return re.search(r"^FAILED \S+::(.+?)( - |$)", log.read_text(), re.MULTILINE)[1], True
    return "SURVIVED" if status == 0 else f"ERROR {status}: {log.read_text()[-2000:]}", False


def main(words):
    for name in ("gymnasium", "torch._dynamo", "torch.utils.tensorboard", "tyro"):
        importlib.import_module(name)  # once, for all forks
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # which takes longer than most tests
    torch.set_num_threads(1)
    sys.dont_write_bytecode = True  # two mutations may have one time and one size
    chosen = [mutation for mutation in MUTATIONS if all(w in " ".join(mutation) for w in words)]
    survivors = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_repository(folder)
        for mutation in chosen:
            outcome, is_caught = verdict(folder, mutation)
            survivors += not is_caught
            change = " ".join(f"{mutation.old} => {mutation.new}".split())
            print(f"{mutation.script}: {change}\n    {outcome}", flush=True)
    print(f"{len(chosen)} mutations, {len(chosen) - survivors} caught, {survivors} not")
    return int(survivors > 0 or not chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
