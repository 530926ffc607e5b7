"""Each policy's density, loss and act: against oracles, and on inputs at the edge."""

import importlib
import inspect
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import distributions as D

SCRIPTS = ["bc_mse", "bc_gaussian", "bc_mog", "bc_autoregressive", "bc_diffusion", "bc_flow"]
ALL_SCRIPTS = [*SCRIPTS, "dagger", "hg_dagger"]


def make_policy(script, obs_dim=3, low=(-1.0, -1.0), high=(1.0, 1.0), **arguments):
    module = importlib.import_module(script)
    obs_space = gym.spaces.Box(-np.inf, np.inf, (obs_dim,), np.float32)
    action_space = gym.spaces.Box(np.array(low, np.float32), np.array(high, np.float32))
    return module.Policy(obs_space, action_space, **arguments)


def fit(policy, obs, actions, num_updates, learning_rate=1e-3, anneal=False):
    """The loss of every update of plain training; the statistics come from the same data."""
    policy.set_statistics(obs, actions)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate, fused=True)
    losses = []
    for update in range(num_updates):
        if anneal:
            optimizer.param_groups[0]["lr"] = learning_rate * (1 - update / num_updates)
        batch = torch.randint(len(obs), (256,))
        loss = policy.loss(obs[batch], actions[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if hasattr(policy, "update_average"):
            policy.update_average()
        losses.append(loss.item())
    return losses


def answer_always(policy, *output):
    """Make the network's output the same for every observation."""
    layer = policy.net[-1]
    layer.weight.data.zero_()
    layer.bias.data = torch.tensor(output, dtype=layer.bias.dtype)


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
    losses = fit(policy, obs, actions, 300, learning_rate=3e-3)
    assert np.mean(losses[-20:]) < np.mean(losses[:5]) - 0.5
    assert np.abs(policy.act(obs.numpy()) - actions.numpy()).mean() < 0.15


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_actions_are_numpy_in_numpy_out(script):
    policy = make_policy(script)
    for dtype in (np.float32, np.float64):
        actions = policy.act(np.zeros((4, 3), dtype))
        assert isinstance(actions, np.ndarray)
        assert actions.shape == (4, 2)
        assert actions.dtype == np.float32


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_the_loss_changes_nothing(script):
    policy = make_policy(script)
    obs = torch.randn(20, 3)
    actions = torch.rand(20, 2)
    policy.set_statistics(obs, actions)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    policy.loss(obs, actions)
    for name, tensor in policy.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_statistics_are_part_of_the_saved_policy(script):
    policy = make_policy(script)
    fit(policy, 5 + torch.randn(200, 3), 0.1 * torch.randn(200, 2), 5)
    other = make_policy(script)
    other.load_state_dict(policy.state_dict())
    obs = 5 + np.random.default_rng(0).normal(size=(32, 3))
    torch.manual_seed(1)
    expected = policy.act(obs)
    torch.manual_seed(1)
    np.testing.assert_array_equal(other.act(obs), expected)


@pytest.mark.parametrize("script", ALL_SCRIPTS)
@pytest.mark.parametrize("num", [1, 7])
def test_extreme_inputs_stay_finite_and_actions_within_bounds(script, num):
    check_extreme_inputs(make_policy(script, low=(-3.0, 0.1), high=(-2.0, 40.0)), num)


def test_a_mixture_of_one_stays_finite_too():
    policy = make_policy("bc_mog", low=(-3.0, 0.1), high=(-2.0, 40.0), num_components=1)
    check_extreme_inputs(policy, 7)


def check_extreme_inputs(policy, num):
    obs = torch.randn(50, 3)
    obs[:, 1] = 5.0  # a constant dimension
    actions = torch.rand(50, 2) * torch.tensor([1.0, 39.9]) + torch.tensor([-3.0, 0.1])
    fit(policy, obs, actions, 3)
    for scale in (0.0, 1.0, 1e6, 1e30):
        extreme = scale * torch.randn(num, 3)
        chosen = policy.act(extreme.numpy())
        assert chosen.shape == (num, 2)
        assert (chosen >= policy.action_low.numpy()).all()
        assert (chosen <= policy.action_high.numpy()).all()

        loss = policy.loss(extreme, actions[:num])
        assert torch.isfinite(loss)
        policy.zero_grad()
        loss.backward()
        for parameter in policy.parameters():
            assert not parameter.requires_grad or torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_actions_beyond_the_bounds_are_clipped(script):
    """Learned from actions around 3; the environment takes -1 to 1."""
    policy = make_policy(script)
    obs = torch.randn(50, 3)
    policy.set_statistics(obs, 3 + 0.1 * torch.randn(50, 2))
    np.testing.assert_array_equal(policy.act(obs.numpy()), np.ones((50, 2)))
    policy.set_statistics(obs, -3 + 0.1 * torch.randn(50, 2))
    np.testing.assert_array_equal(policy.act(obs.numpy()), -np.ones((50, 2)))


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_observations_are_standardised_and_clamped_at_ten(script):
    policy = make_policy(script)
    obs = torch.randn(200, 3) * torch.tensor([0.1, 1.0, 50.0]) + torch.tensor([0.0, 7.0, -20.0])
    policy.set_statistics(obs, torch.rand(200, 2))
    seen = []
    network = policy.nets[0] if script == "hg_dagger" else policy.net
    if script in ("bc_diffusion", "bc_flow"):
        network = policy.ema_net
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    policy.act(obs.numpy())
    oracle = (obs - obs.mean(0)) / obs.std(0, correction=0)
    torch.testing.assert_close(seen[0][:, :3], oracle, rtol=1e-4, atol=1e-4)
    seen.clear()
    policy.act(np.array([[1e6, -1e6, 1e6]]))
    np.testing.assert_array_equal(seen[0][0, :3], [10.0, -10.0, 10.0])


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_a_constant_dimension_is_only_centred(script):
    module = importlib.import_module(script)
    mean, std = module.mean_and_std(torch.tensor([[1.0, 5.0], [4.0, 5.0], [1.0, 5.0]]))
    assert mean.dtype == std.dtype == torch.float32
    assert mean.tolist() == [2.0, 5.0]
    assert std.tolist() == pytest.approx([2**0.5, 1.0])


@pytest.mark.parametrize("script", [script for script in SCRIPTS if script != "bc_autoregressive"])
def test_discrete_actions_are_refused_with_the_script_that_takes_them(script, capsys):
    module = importlib.import_module(script)
    with pytest.raises(SystemExit):
        module.make_envs(module.Args(env_id="CartPole-v1"), 1)
    assert "bc_autoregressive.py" in capsys.readouterr().err


# --- Arguments ---

FLAGS = {
    "bc_gaussian": {"hidden_dim": 8, "min_std": 0.1, "stochastic": True},
    "bc_mog": {"hidden_dim": 8, "num_components": 3, "min_std": 0.1},
    "bc_autoregressive": {"hidden_dim": 8, "num_bins": 32, "smoothing": 0.1},
    "bc_diffusion": {
        "hidden_dim": 8,
        "num_diffusion_steps": 40,
        "num_inference_steps": 7,
        "eta": 0.5,
        "predict_noise": True,
        "ema_decay": 0.9,
        "fine_modes": True,
        "horizon": 3,
        "action_horizon": 2,
    },
    "bc_flow": {
        "hidden_dim": 8,
        "num_inference_steps": 7,
        "ema_decay": 0.9,
        "fine_modes": True,
        "horizon": 3,
        "action_horizon": 2,
    },
    "hg_dagger": {"hidden_dim": 8, "ensemble_size": 3},
}
ATTRIBUTES = {"num_components": "K", "num_bins": "B"}
SPACES = SimpleNamespace(
    single_observation_space=gym.spaces.Box(-np.inf, np.inf, (3,), np.float32),
    single_action_space=gym.spaces.Box(-1, 1, (2,), np.float32),
)


@pytest.mark.parametrize("script", [script for script in FLAGS if script != "hg_dagger"])
def test_every_argument_arrives_where_it_belongs(script):
    module = importlib.import_module(script)
    policy = module.make_policy(module.Args(**FLAGS[script]), SPACES)
    assert policy.net[0].out_features == 8
    for name, value in FLAGS[script].items():
        if name == "fine_modes":
            assert len(policy.frequencies) == 5
        elif name != "hidden_dim":
            assert getattr(policy, ATTRIBUTES.get(name, name)) == value


def test_the_size_of_the_ensemble_and_of_its_networks_arrive():
    module = importlib.import_module("hg_dagger")
    policy = module.make_policy(module.Args(**FLAGS["hg_dagger"]), SPACES)
    assert len(policy.nets) == 3
    assert policy.nets[0][0].out_features == 8


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_the_policy_and_the_command_line_have_the_same_defaults(script):
    module = importlib.import_module(script)
    args = module.Args()
    for name, parameter in inspect.signature(module.Policy).parameters.items():
        if name not in ("obs_space", "action_space"):
            assert parameter.default == getattr(args, name), name


@pytest.mark.parametrize("script", FLAGS)
def test_a_checkpoint_brings_along_the_flags_it_was_trained_with(script, tmp_path):
    module = importlib.import_module(script)
    args = module.Args(**FLAGS[script])
    trained = module.make_policy(args, SPACES)
    horizon = FLAGS[script].get("horizon", 1)
    obs = torch.randn(100, 3)
    actions = torch.rand(100, 2 * horizon) - 0.5
    fit(trained, obs, actions, 3)

    metadata = {"args": vars(args)}
    if script == "hg_dagger":
        module.save(trained, tmp_path, metadata, obs, actions)
    else:
        module.save_policy(trained, tmp_path, metadata)
    path = tmp_path / "policy.safetensors"
    loaded_args = module.parse_args(["--checkpoint", str(path)])
    loaded = module.make_policy(loaded_args, SPACES)
    read = module.read_saved("", path) if script == "hg_dagger" else module.read_checkpoint(path)
    module.load_weights(loaded, read[1], path)

    outputs = []
    for policy in (trained, loaded):
        torch.manual_seed(1)
        with torch.no_grad():
            outputs.append((policy.loss(obs, actions), policy.act(obs.numpy())))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=0, atol=0)


# --- Squared loss ---


@pytest.mark.parametrize("script", ["bc_mse", "dagger"])
def test_squared_loss_is_in_standard_deviations_of_the_actions(script):
    policy = make_policy(script)
    answer_always(policy, 0.5, -0.25)
    actions = torch.randn(64, 2) * torch.tensor([3.0, 0.1]) + torch.tensor([1.0, -2.0])
    policy.set_statistics(torch.randn(64, 3), actions)
    standardised = (actions - actions.mean(0)) / actions.std(0, correction=0)
    oracle = ((standardised - torch.tensor([0.5, -0.25])) ** 2).sum(1).mean()
    torch.testing.assert_close(policy.loss(torch.randn(64, 3), actions), oracle)


@pytest.mark.parametrize("script", ["bc_mse", "dagger"])
def test_the_action_is_the_output_in_the_environments_units(script):
    policy = make_policy(script, low=(-9.0, -9.0), high=(9.0, 9.0))
    answer_always(policy, 0.5, -0.25)
    actions = torch.randn(64, 2) * torch.tensor([3.0, 0.1]) + torch.tensor([1.0, -2.0])
    policy.set_statistics(torch.randn(64, 3), actions)
    oracle = actions.mean(0) + actions.std(0, correction=0) * torch.tensor([0.5, -0.25])
    np.testing.assert_allclose(policy.act(np.zeros((1, 3)))[0], oracle, rtol=1e-5)


CONTROL_RATES = [(1, 400, 0.0, 0.05), (10, 1500, 0.95, 1.0)]


@pytest.mark.parametrize("decision_hz, num_updates, low, high", CONTROL_RATES)
def test_squared_loss_fails_at_one_decision_a_second_and_not_at_ten(
    decision_hz, num_updates, low, high
):
    """With many small decisions the closed loop breaks the symmetry between the modes."""
    module = importlib.import_module("bc_mse")
    args = module.Args(env_id="LaneChange-v0", hidden_dim=64)
    envs = module.make_envs(args, 50, decision_hz=decision_hz)
    expert = module.load_expert("LaneChange-v0")
    obs, actions = module.to_tensors(module.rollout(envs, expert, 200, seed=0), "cpu")
    policy = module.make_policy(args, envs)
    fit(policy, obs, actions, num_updates)
    assert low <= module.evaluate(args, envs, policy, 100)["success_rate"] <= high


# --- Gaussian ---


def units():
    """Observations and actions far from standardised, in float64."""
    obs = 2 * torch.randn(64, 3, dtype=torch.float64) + 1
    return obs, torch.randn(64, 2, dtype=torch.float64) * torch.tensor([0.3, 4.0]) + 0.2


def test_gaussian_log_prob_is_that_of_the_normal_distribution():
    policy = make_policy("bc_gaussian").double()
    obs, actions = units()
    policy.set_statistics(obs, actions)
    mu, sigma = policy(obs)
    mean = actions.mean(0)
    std = actions.std(0, correction=0)
    oracle = D.Independent(D.Normal(mean + std * mu, std * sigma), 1).log_prob(actions)
    torch.testing.assert_close(policy.log_prob(obs, actions), oracle, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(policy.loss(obs, actions), -policy.log_prob(obs, actions).mean())


@pytest.mark.parametrize("script, num_before", [("bc_gaussian", 2), ("bc_mog", 4 + 4 * 2)])
def test_sigma_is_softplus_above_its_floor(script, num_before):
    policy = make_policy(script, min_std=0.25, **({"num_components": 4} if num_before > 2 else {}))
    size = policy.net[-1].out_features
    for raw, sigma in ((-100.0, 0.25), (0.0, 0.25 + np.log(2)), (5.0, 0.25 + np.log1p(np.exp(5)))):
        answer_always(policy, *[0.0] * num_before, *[raw] * (size - num_before))
        out = policy(torch.zeros(1, 3))[-1]
        torch.testing.assert_close(out, torch.full_like(out, sigma))


def test_a_gaussian_acts_by_its_mean():
    policy = make_policy("bc_gaussian", low=(-9.0, -9.0), high=(9.0, 9.0))
    answer_always(policy, 0.5, -0.25, 1.0, 1.0)
    actions = torch.randn(64, 2) * torch.tensor([3.0, 0.1]) + torch.tensor([1.0, -2.0])
    policy.set_statistics(torch.randn(64, 3), actions)
    oracle = actions.mean(0) + actions.std(0, correction=0) * torch.tensor([0.5, -0.25])
    np.testing.assert_allclose(policy.act(np.zeros((1, 3)))[0], oracle, rtol=1e-5)


def test_a_stochastic_gaussian_draws_from_its_distribution():
    policy = make_policy("bc_gaussian", stochastic=True, low=(-9.0, -9.0), high=(9.0, 9.0))
    answer_always(policy, 0.5, -0.25, 0.0, -1.0)
    _, sigma = policy(torch.zeros(1, 3))
    drawn = policy.act(np.zeros((50_000, 3)))
    np.testing.assert_allclose(drawn.mean(0), [0.5, -0.25], atol=0.02)
    np.testing.assert_allclose(drawn.std(0), sigma[0].detach(), atol=0.02)
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.02


# --- Mixture of Gaussians ---


def standardised_mixture(log_w, mu, sigma):
    components = D.Independent(D.Normal(mu, sigma), 1)
    return D.MixtureSameFamily(D.Categorical(logits=log_w), components)


def test_mog_log_prob_is_that_of_the_mixture():
    policy = make_policy("bc_mog", num_components=4).double()
    obs, actions = units()
    policy.set_statistics(obs, actions)
    log_w, mu, sigma = policy(obs)
    # In the environment's units each component is the affine image of the standardised one.
    mean = actions.mean(0)
    std = actions.std(0, correction=0)
    oracle = standardised_mixture(log_w, mean + std * mu, std * sigma).log_prob(actions)
    torch.testing.assert_close(policy.log_prob(obs, actions), oracle, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(policy.loss(obs, actions), -policy.log_prob(obs, actions).mean())


def test_mog_components_start_apart():
    _, mu, _ = make_policy("bc_mog", num_components=8)(torch.zeros(1, 3))
    assert torch.pdist(mu[0]).min() > 0.2


def mixture_of_three():
    """Weights, means and sigmas that overlap: the first two components share a mode."""
    policy = make_policy("bc_mog", num_components=3, low=(-9.0, -9.0), high=(9.0, 9.0))
    logits = [0.0, 0.5, 1.0]
    means = [-0.3, 0.0, 0.3, 0.1, 3.0, -2.0]
    answer_always(policy, *logits, *means, *[0.0] * 6)
    return policy


def test_mog_draws_a_component_and_shifts_its_mean_towards_the_mode():
    policy = mixture_of_three()
    log_w, mu, sigma = (x.detach().double() for x in policy(torch.zeros(1, 3)))
    joint = D.Independent(D.Normal(mu, sigma), 1)
    shifted = []
    for k in range(3):  # (3), with the responsibilities of the k-th mean
        log_r = log_w + joint.log_prob(mu[:, k : k + 1])
        shifted.append((log_r.exp() / log_r.exp().sum() @ mu[0])[0])
    shifted = torch.stack(shifted)
    assert (shifted[0] - shifted[1]).norm() < 0.5 * (mu[0, 0] - mu[0, 1]).norm()

    drawn = torch.from_numpy(policy.act(np.zeros((40_000, 3)))).double()
    distance, k = torch.cdist(drawn, shifted).min(1)
    assert distance.max() < 1e-5
    frequencies = torch.bincount(k, minlength=3) / len(drawn)
    torch.testing.assert_close(frequencies, log_w.exp()[0].float(), rtol=0, atol=0.01)


def test_mog_draws_in_the_environments_units():
    policy = mixture_of_three()
    actions = torch.randn(64, 2) * torch.tensor([1.5, 0.1]) + torch.tensor([1.0, -2.0])
    torch.manual_seed(1)
    standardised = policy.act(np.zeros((20, 3)))
    policy.set_statistics(torch.zeros(64, 3), actions)
    torch.manual_seed(1)
    oracle = actions.mean(0) + actions.std(0, correction=0) * torch.from_numpy(standardised)
    np.testing.assert_allclose(policy.act(np.zeros((20, 3))), oracle, rtol=1e-4)


# --- Discrete actions and the ensemble of the DAggers ---


def discrete_policy(script, start=0, **arguments):
    module = importlib.import_module(script)
    space = gym.spaces.Discrete(3, start=start)
    return module.Policy(gym.spaces.Box(-np.inf, np.inf, (3,)), space, **arguments)


@pytest.mark.parametrize("script", ["dagger", "hg_dagger"])
def test_categories_may_start_elsewhere_than_at_zero(script):
    policy = discrete_policy(script, start=-1, hidden_dim=32)
    obs = torch.randn(500, 3)
    labels = obs.argmax(-1) - 1
    losses = fit(policy, obs, labels, 200)
    assert losses[-1] < 0.5 * losses[0]
    actions = policy.act(obs.numpy())
    assert actions.shape == (500,)
    assert set(actions.tolist()) == {-1, 0, 1}
    assert (actions == labels.numpy()).mean() > 0.9


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    policy = discrete_policy("dagger", start=2)
    obs = torch.randn(8, 3)
    labels = torch.tensor([2, 3, 4, 4, 3, 2, 2, 3])
    oracle = -D.Categorical(logits=policy(obs)).log_prob(labels - 2).mean()
    torch.testing.assert_close(policy.loss(obs, labels), oracle)


def test_each_network_of_the_ensemble_learns_from_every_label():
    policy = discrete_policy("hg_dagger", start=2, ensemble_size=4)
    obs = torch.randn(8, 3)
    labels = torch.tensor([2, 3, 4, 4, 3, 2, 2, 3])
    losses = []
    for net in policy.nets:
        losses.append(-D.Categorical(logits=net(obs)).log_prob(labels - 2).mean())
    torch.testing.assert_close(policy.loss(obs, labels), torch.stack(losses).mean())


def test_the_ensembles_squared_loss_is_the_mean_over_its_networks():
    policy = make_policy("hg_dagger", ensemble_size=4)
    obs = torch.randn(64, 3)
    actions = torch.randn(64, 2) * torch.tensor([3.0, 0.1]) + torch.tensor([1.0, -2.0])
    policy.set_statistics(torch.zeros(64, 3), actions)
    standardised = (actions - actions.mean(0)) / actions.std(0, correction=0)
    losses = [((standardised - net(obs)) ** 2).sum(1).mean() for net in policy.nets]
    torch.testing.assert_close(policy.loss(obs, actions), torch.stack(losses).mean())


def test_the_networks_of_the_ensemble_start_apart():
    policy = make_policy("hg_dagger", ensemble_size=4)
    out = policy(torch.zeros(1, 3))[:, 0]
    assert torch.pdist(out).min() > 1e-3


def test_the_mean_of_the_ensemble_acts_and_its_variance_is_the_doubt():
    policy = make_policy("hg_dagger", ensemble_size=4, low=(-9.0, -9.0), high=(9.0, 9.0))
    statistics = torch.randn(64, 2) * torch.tensor([1.5, 0.1]) + torch.tensor([1.0, -2.0])
    policy.set_statistics(torch.zeros(64, 3), statistics)
    obs = torch.randn(5, 3)
    members = torch.stack([net(obs) for net in policy.nets]).detach().double().numpy()
    actions, doubt = policy.act_and_doubt(obs.numpy())
    mean = statistics.mean(0).numpy()
    std = statistics.std(0, correction=0).numpy()
    oracle = mean + std * members.mean(0)
    np.testing.assert_allclose(actions, oracle, rtol=1e-4)
    np.testing.assert_allclose(doubt, np.sqrt((members.var(axis=0) ** 2).sum(-1)), rtol=1e-4)
    np.testing.assert_array_equal(policy.act(obs.numpy()), actions)


def test_categories_are_chosen_by_the_mean_probability_and_doubted_by_its_variance():
    policy = discrete_policy("hg_dagger", ensemble_size=3)
    logits = torch.tensor([[[0.0, 1.0, -9.0]], [[0.0, 1.0, -9.0]], [[30.0, 0.0, 0.0]]])
    policy.forward = lambda obs: logits  # by their mean logits, category 0; two of three prefer 1
    actions, doubt = policy.act_and_doubt(np.zeros((1, 3)))
    probabilities = logits[:, 0].softmax(-1).double().numpy()
    assert actions.tolist() == [probabilities.mean(0).argmax()]
    np.testing.assert_allclose(doubt, np.linalg.norm(probabilities.var(axis=0)), rtol=1e-4)


def test_distance_is_in_standard_deviations_of_the_labels():
    policy = make_policy("hg_dagger")
    policy.action_std = torch.tensor([2.0, 0.5])
    distance = policy.distance(np.array([[1.0, 1.0], [0.0, 0.0]]), np.array([[3.0, 1.5], [0, 0]]))
    np.testing.assert_allclose(distance, [1.0, 0.0])  # one standard deviation in each dimension
    discrete = discrete_policy("hg_dagger")
    assert discrete.distance(np.array([0, 1]), np.array([0, 2])).tolist() == [0.0, 1.0]
