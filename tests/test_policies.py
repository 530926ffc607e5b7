"""Each policy's density, loss and act against oracles, and what holds for all of them."""

import importlib
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as D

ALL_SCRIPTS = sorted(path.stem for path in Path(__file__).parent.parent.glob("*.py"))


def make_policy(script, space=None, obs_dim=3, bound=1.0, **flags):
    """A policy with a small network; by default for two actions between -bound and bound."""
    module = importlib.import_module(script)
    obs_space = gym.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
    space = space or gym.spaces.Box(-bound, bound, (2,), np.float32)
    return module.Policy(obs_space, space, module.Args(**{"hidden_dim": 16} | flags))


def as_labels(policy, actions):
    """The actions (T, act_dim), as chunks of one (T, 1, act_dim) where the policy learns chunks."""
    return actions[:, None] if hasattr(policy, "queue") else actions


def fit(policy, obs, actions, num_updates, learning_rate=1e-3):
    """The loss of every update of plain training; the statistics come from the same data."""
    labels = as_labels(policy, actions)
    policy.set_statistics(obs, labels)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, fused=True)
    losses = []
    for update in range(num_updates):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - update / num_updates)
        batch = torch.randint(len(obs), (256,))
        loss = policy.loss(obs[batch], labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def answer_always(policy, *output):
    """Make the network's output the same for every observation."""
    layer = policy.net[-1]
    layer.weight.data.zero_()
    layer.bias.data = torch.tensor(output, dtype=layer.bias.dtype)


def uneven_units(policy, num=64):
    """Observations and actions, with their statistics in the policy; the actions' mean and std."""
    dtype = next(policy.parameters()).dtype
    obs = 2 * torch.randn(num, 3, dtype=dtype) + 1
    actions = torch.randn(num, 2, dtype=dtype) * torch.tensor([3.0, 0.1]) + torch.tensor([1.0, -2])
    policy.set_statistics(obs, actions)
    return obs, actions, actions.mean(0), actions.std(0, correction=0)


@pytest.fixture(autouse=True)
def seeded():
    torch.set_num_threads(1)
    torch.manual_seed(0)


# --- All policies ---


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_loss_decreases_and_the_actions_are_learned(script):
    obs = torch.randn(2000, 3)
    actions = torch.stack([torch.tanh(obs[:, 0] - obs[:, 1]), 0.5 * torch.sin(obs[:, 2])], dim=1)
    policy = make_policy(script, hidden_dim=64)
    losses = fit(policy, obs, actions, 300, learning_rate=5e-3)
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 0.5
    assert np.abs(policy.act(obs.numpy()) - actions.numpy()).mean() < 0.15


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_a_saved_policy_is_complete_and_the_loss_changes_nothing_in_it(script):
    policy = make_policy(script)
    obs = 5 + torch.randn(200, 3)
    actions = 0.1 * torch.randn(200, 2)
    fit(policy, obs, actions, 5)
    saved = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    policy.loss(obs, as_labels(policy, actions))
    other = make_policy(script)
    other.load_state_dict(saved)
    for dtype in (np.float32, np.float64):
        taken = []
        for either in (policy, other):
            torch.manual_seed(1)
            taken.append(either.act(obs.numpy().astype(dtype)))
        np.testing.assert_array_equal(*taken)
        assert taken[0].shape == (200, 2)
        assert taken[0].dtype == np.float32


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_actions_beyond_the_bounds_are_clipped(script):
    """Learned from actions around 3; the environment takes -1 to 1."""
    policy = make_policy(script)
    obs = torch.randn(50, 3)
    for centre in (3, -3):
        policy.set_statistics(obs, as_labels(policy, centre + 0.1 * torch.randn(50, 2)))
        np.testing.assert_array_equal(policy.act(obs.numpy()), np.full((50, 2), np.sign(centre)))

        narrow = make_policy(script, bound=0.5)  # the bounds are the environment's, at all times
        narrow.load_state_dict(policy.state_dict())
        np.testing.assert_array_equal(narrow.act(obs.numpy()), np.full((50, 2), centre / 6))


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_observations_are_standardised_and_clamped_at_ten(script):
    policy = make_policy(script, hidden_dim=8)
    obs = torch.randn(200, 3) * torch.tensor([0.1, 1.0, 50.0]) + torch.tensor([0.0, 7.0, -20.0])
    policy.set_statistics(obs, as_labels(policy, torch.rand(200, 2)))
    seen = []
    network = policy.nets[0] if script == "hg_dagger" else policy.net
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    assert network[0].out_features == 8

    policy.act(obs.numpy())
    oracle = (obs - obs.mean(0)) / obs.std(0, correction=0)
    torch.testing.assert_close(seen[0][:, :3], oracle, rtol=1e-4, atol=1e-4)
    seen.clear()
    policy.act(np.array([[1e6, -1e6, 1e6]]))
    np.testing.assert_array_equal(seen[0][0, :3], [10.0, -10.0, 10.0])


@pytest.mark.parametrize("script", ["bc_mse", "dagger"])
def test_a_constant_dimension_is_only_centred(script):
    module = importlib.import_module(script)
    mean, std = module.mean_and_std(torch.tensor([[1.0, 5.0], [4.0, 5.0], [1.0, 5.0]]))
    assert mean.dtype == std.dtype == torch.float32
    assert mean.tolist() == [2.0, 5.0]
    assert std.tolist() == pytest.approx([2**0.5, 1.0])


# --- Any finite data ---

MAGNITUDES = st.sampled_from([0.0, 1e-12, 1e-3, 1.0, 1e4, 1e8])
CASES = [(script, {}) for script in ALL_SCRIPTS] + [("bc_mog", {"num_components": 1})]


def numbers(seed, shape, magnitude, offset):
    """Numbers of one magnitude around an offset; a magnitude of 0 makes them constant."""
    x = offset + magnitude * np.random.default_rng(seed).normal(size=shape)
    return torch.as_tensor(x, dtype=torch.float32)


@pytest.mark.parametrize("script, flags", CASES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    obs_dim=st.sampled_from([1, 3, 1000]),
    act_dim=st.sampled_from([1, 2, 7]),
    num=st.sampled_from([1, 2, 33]),
    scales=st.tuples(MAGNITUDES, MAGNITUDES),
    offset=st.sampled_from([0.0, -1.0, 1e4]),
    unseen=MAGNITUDES | st.just(1e30),
)
def test_any_finite_data(script, flags, seed, obs_dim, act_dim, num, scales, offset, unseen):
    torch.manual_seed(0)
    obs = numbers(seed, (num, obs_dim), scales[0], offset)
    actions = numbers(seed + 1, (num, act_dim), scales[1], offset)
    low = np.full(act_dim, -2.0, np.float32) - np.arange(act_dim, dtype=np.float32)
    high = np.linspace(0.5, 3.0, act_dim, dtype=np.float32)
    policy = make_policy(script, gym.spaces.Box(low, high), obs_dim, **flags)
    assert np.isfinite(fit(policy, obs, actions, 3)).all()
    for states in (obs, numbers(seed, (num, obs_dim), unseen, offset)):
        policy.zero_grad()
        loss = policy.loss(states, as_labels(policy, actions))
        loss.backward()
        assert torch.isfinite(loss)
        for parameter in policy.parameters():
            assert torch.isfinite(parameter).all()
            assert torch.isfinite(parameter.grad).all()
        chosen = policy.act(states.numpy())
        assert chosen.shape == (num, act_dim)
        assert ((low <= chosen) & (chosen <= high)).all()


# --- Squared loss ---


@pytest.mark.parametrize("script", ["bc_mse", "dart", "dagger"])
def test_squared_loss_is_in_standard_deviations_of_the_actions(script):
    policy = make_policy(script)
    answer_always(policy, 0.5, -0.25)
    obs, actions, mean, std = uneven_units(policy)
    oracle = (((actions - mean) / std - torch.tensor([0.5, -0.25])) ** 2).sum(1).mean()
    torch.testing.assert_close(policy.loss(obs, actions), oracle)


@pytest.mark.parametrize("script", ["bc_mse", "dart", "dagger", "bc_gaussian"])
def test_the_action_is_the_output_in_the_environments_units(script):
    policy = make_policy(script, bound=9.0)
    answer_always(policy, 0.5, -0.25, *([1.0, 1.0] if script == "bc_gaussian" else []))  # sigma
    _, _, mean, std = uneven_units(policy)
    oracle = mean + std * torch.tensor([0.5, -0.25])
    np.testing.assert_allclose(policy.act(np.zeros((1, 3)))[0], oracle, rtol=1e-5)


ROADS = [("LaneChange-v0", 0.0, 0.05), ("LaneChange10Hz-v0", 0.95, 1.0)]


@pytest.mark.parametrize("env_id, low, high", ROADS)
def test_squared_loss_fails_with_few_decisions_and_not_with_many(env_id, low, high):
    """With many small decisions the closed loop breaks the symmetry between the modes."""
    module = importlib.import_module("bc_mse")
    args = module.Args(env_id=env_id, hidden_dim=64)
    envs = module.make_envs(args, 50)
    demos = module.rollout(envs, module.load_expert(env_id), 200, seed=0)
    policy = module.Policy(envs[0].observation_space, envs[0].action_space, args)
    fit(policy, *module.to_tensors(demos, "cpu"), 1500)
    assert low <= module.evaluate(args, envs, policy, 100)["success_rate"] <= high


# --- Gaussian and mixture of Gaussians ---


def test_gaussian_log_prob_is_that_of_the_normal_distribution():
    policy = make_policy("bc_gaussian").double()
    obs, actions, mean, std = uneven_units(policy)
    mu, sigma = policy(obs)
    oracle = D.Independent(D.Normal(mean + std * mu, std * sigma), 1).log_prob(actions)
    torch.testing.assert_close(policy.log_prob(obs, actions), oracle, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(policy.loss(obs, actions), -oracle.mean(), rtol=1e-6, atol=1e-6)


def test_mog_log_prob_is_that_of_the_mixture():
    policy = make_policy("bc_mog", num_components=4).double()
    obs, actions, mean, std = uneven_units(policy)
    log_w, mu, sigma = policy(obs)
    # In the environment's units each component is the affine image of the standardised one.
    components = D.Independent(D.Normal(mean + std * mu, std * sigma), 1)
    mixture = D.MixtureSameFamily(D.Categorical(logits=log_w), components)
    oracle = mixture.log_prob(actions)
    torch.testing.assert_close(policy.log_prob(obs, actions), oracle, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(policy.loss(obs, actions), -oracle.mean(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("script, num_before", [("bc_gaussian", 2), ("bc_mog", 5 + 5 * 2)])
def test_sigma_is_softplus_above_its_floor(script, num_before):
    policy = make_policy(script, min_std=0.25)
    size = policy.net[-1].out_features
    for raw, sigma in ((-100.0, 0.25), (0.0, 0.25 + np.log(2)), (5.0, 0.25 + np.log1p(np.exp(5)))):
        answer_always(policy, *[0.0] * num_before, *[raw] * (size - num_before))
        out = policy(torch.zeros(1, 3))[-1]
        torch.testing.assert_close(out, torch.full_like(out, sigma))


def test_a_stochastic_gaussian_draws_from_its_distribution():
    policy = make_policy("bc_gaussian", bound=9.0, stochastic=True)
    answer_always(policy, 0.5, -0.25, 0.0, -1.0)
    _, sigma = policy(torch.zeros(1, 3))
    drawn = policy.act(np.zeros((50_000, 3)))
    np.testing.assert_allclose(drawn.mean(0), [0.5, -0.25], atol=0.02)
    np.testing.assert_allclose(drawn.std(0), sigma[0].detach(), atol=0.02)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.02


def test_mog_components_start_apart():
    _, mu, _ = make_policy("bc_mog", num_components=8)(torch.zeros(1, 3))
    assert torch.pdist(mu[0]).median() > 1


def test_mog_draws_a_component_and_returns_exactly_its_mean_clipped():
    policy = make_policy("bc_mog", bound=3.0, num_components=3)
    mu = torch.tensor([[-0.3, 0.0], [0.3, 0.1], [3.0, -2.0]])  # the first two overlap
    answer_always(policy, 0.0, 0.5, 1.0, *mu.flatten(), *[0.0] * 6)
    _, _, mean, std = uneven_units(policy)
    oracle = (mean + std * mu).clamp(-3, 3)
    assert oracle[2, 0] == 3.0

    drawn = torch.from_numpy(policy.act(np.zeros((40_000, 3))))
    distance, k = torch.cdist(drawn, oracle).min(1)
    assert distance.max() < 1e-5
    frequencies = torch.bincount(k, minlength=3) / len(drawn)
    weights = torch.tensor([0.0, 0.5, 1.0]).softmax(0)
    torch.testing.assert_close(frequencies, weights, rtol=0, atol=0.01)


# --- Discrete actions and the ensemble of the DAggers ---


def discrete_policy(script, start=0, **flags):
    return make_policy(script, gym.spaces.Discrete(3, start=start), **flags)


@pytest.mark.parametrize("script", ["dagger", "hg_dagger"])
def test_categories_may_start_elsewhere_than_at_zero(script):
    policy = discrete_policy(script, start=-1)
    obs = torch.randn(500, 3)
    labels = obs.argmax(-1) - 1
    fit(policy, obs, labels, 200, learning_rate=5e-3)
    actions = policy.act(obs.numpy())
    assert actions.shape == (500,)
    assert set(actions.tolist()) == {-1, 0, 1}
    assert (actions == labels.numpy()).mean() > 0.9


@pytest.mark.parametrize("script", ["dagger", "hg_dagger"])
def test_cross_entropy_is_minus_the_log_probability_of_the_label(script):
    policy = discrete_policy(script, start=2)
    obs = torch.randn(8, 3)
    labels = torch.tensor([2, 3, 4, 4, 3, 2, 2, 3])
    nets = policy.nets if script == "hg_dagger" else [policy.net]  # all learn from every label
    losses = [-D.Categorical(logits=net(obs)).log_prob(labels - 2).mean() for net in nets]
    torch.testing.assert_close(policy.loss(obs, labels), torch.stack(losses).mean())


def test_the_networks_of_the_ensemble_start_apart_and_their_loss_is_the_mean():
    policy = make_policy("hg_dagger", ensemble_size=4)
    obs, actions, mean, std = uneven_units(policy)
    outputs = policy(obs)
    assert len(outputs) == 4
    assert torch.pdist(outputs[:, 0]).min() > 1e-3
    losses = [(((actions - mean) / std - output) ** 2).sum(1).mean() for output in outputs]
    torch.testing.assert_close(policy.loss(obs, actions), torch.stack(losses).mean())


def test_the_mean_of_the_ensemble_acts_and_its_variance_is_the_doubt():
    policy = make_policy("hg_dagger", bound=9.0, ensemble_size=4)
    obs, _, mean, std = uneven_units(policy)
    members = policy(obs).detach().double().numpy()
    oracle = (mean.numpy() + std.numpy() * members.mean(0)).clip(-9, 9)
    np.testing.assert_allclose(policy.act(obs.numpy()), oracle, rtol=1e-4)
    doubt = np.sqrt((members.var(axis=0) ** 2).sum(-1))
    np.testing.assert_allclose(policy.doubt(obs.numpy()), doubt, rtol=1e-4)


def test_categories_are_chosen_by_the_mean_probability_and_doubted_by_its_variance():
    policy = discrete_policy("hg_dagger", ensemble_size=3)
    undecided = [[0.0, 1.0, -9.0], [0.0, 1.0, -9.0]]
    logits = torch.tensor([undecided, undecided, [[30.0, 0.0, 0.0], [3.0, 0.0, 0.0]]])  # (E, N, n)
    policy.forward = lambda obs: logits  # by the majority 1 and 1, by the mean of logits 0 and 0
    probabilities = logits.softmax(-1).double().numpy()
    assert (
        policy.act(np.zeros((2, 3))).tolist() == probabilities.mean(0).argmax(-1).tolist() == [0, 1]
    )
    doubt = np.linalg.norm(probabilities.var(axis=0), axis=-1)
    np.testing.assert_allclose(policy.doubt(np.zeros((2, 3))), doubt, rtol=1e-4)


def test_distance_is_in_standard_deviations_of_the_labels():
    policy = make_policy("hg_dagger")
    policy.action_std = torch.tensor([2.0, 0.5])
    distance = policy.distance(np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[3.0, 1.5], [0, 0]]))
    np.testing.assert_allclose(distance, [1.0, 0.0])  # one standard deviation in each dimension
    discrete = discrete_policy("hg_dagger")
    assert discrete.distance(np.array([0, 1]), np.array([0, 2])).tolist() == [0.0, 1.0]
