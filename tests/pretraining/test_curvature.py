"""Curvature and gradient statistics, against the explicit Hessian of a small network."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

from lrbench.config.protocols import SourceFit
from lrbench.core.errors import FailureError
from lrbench.pretraining.curvature import _hessian_product, gradient_statistics, largest_eigenvalue


def network(*, unused=False):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.GroupNorm(1, 4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 5))
    if unused:
        model.register_parameter("unused", nn.Parameter(torch.ones(7)))
    return model.eval()


def sample(count=24, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=draw), torch.randint(0, 5, (count,), generator=draw)


def explicit(model, inputs, labels):
    """The Hessian of the mean loss, by torch's own function; and the gradient."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]
    flat = torch.cat([parameter.detach().double().reshape(-1) for parameter in model.parameters()])

    def loss(vector):
        parts = vector.split([shape.numel() for shape in shapes])
        weights = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        outputs = torch.func.functional_call(model, weights, (inputs.double(),))
        return nn.functional.cross_entropy(outputs, labels)

    hessian = torch.autograd.functional.hessian(loss, flat).numpy()
    return hessian, torch.autograd.functional.jacobian(loss, flat).numpy(), flat.numpy()


def in_pieces(inputs, labels, size):
    return lambda: zip(inputs.split(size), labels.split(size), strict=True)


@pytest.mark.parametrize("size", [24, 10, 1])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_largest_eigenvalue_is_that_of_the_explicit_hessian(size, decay):
    model, (inputs, labels) = network(), sample()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hessian, _, _ = explicit(network(), inputs, labels)
    expected = np.linalg.eigvalsh(hessian)[-1] + decay
    assert largest_eigenvalue(model, in_pieces(inputs, labels, size), decay=decay) == pytest.approx(expected, rel=0.01)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_products_and_eigenvalue_are_those_of_curvlinops():
    operators = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is in the extra `test`")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    inputs, labels = sample()
    parameters = list(model.parameters())
    data = list(in_pieces(inputs, labels, 12)())
    loss = nn.CrossEntropyLoss()
    hessian = operators.HessianLinearOperator(model, loss, parameters, data, check_deterministic=False).to_scipy()
    vector = np.random.default_rng(0).normal(size=hessian.shape[0]).astype(np.float32)
    product = _hessian_product(model, parameters, data, torch.from_numpy(vector)).numpy()
    assert np.linalg.norm(product - hessian @ vector) < 1e-4 * np.linalg.norm(product)
    expected = eigsh(hessian, k=1, which="LA", tol=1e-3, return_eigenvectors=False)[0]
    assert largest_eigenvalue(model, in_pieces(inputs, labels, 12)) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("vectors", [8, 12])
def test_few_vectors_give_the_same_eigenvalue(vectors):
    model, (inputs, labels) = network(), sample()
    expected = np.linalg.eigvalsh(explicit(network(), inputs, labels)[0])[-1]
    eigenvalue = largest_eigenvalue(model, in_pieces(inputs, labels, 24), vectors=vectors)
    # The second eigenvalue is 1 % below the largest.
    assert eigenvalue == pytest.approx(expected, rel=0.02)


def test_default_vectors_are_no_part_of_settings():
    assert "lanczos_vectors" not in SourceFit(images=64, curvature=True).model_dump(mode="json")
    assert SourceFit(lanczos_vectors=8).model_dump(mode="json")["lanczos_vectors"] == 8


def test_parameters_without_effect_have_no_curvature():
    inputs, labels = sample()
    with_unused = largest_eigenvalue(network(unused=True), in_pieces(inputs, labels, 24))
    assert with_unused == pytest.approx(largest_eigenvalue(network(), in_pieces(inputs, labels, 24)), rel=0.01)


def test_eigenvalue_is_reproducible_and_not_sought_where_losses_overflow():
    model, (inputs, labels) = network(), sample()
    pieces = in_pieces(inputs, labels, 24)
    assert largest_eigenvalue(model, pieces) == largest_eigenvalue(model, pieces)
    model[4].weight.data.fill_(float("inf"))
    with pytest.raises(FailureError, match="not finite"):
        largest_eigenvalue(model, pieces)


def test_gradient_statistics_follow_their_definitions():
    model, decay = network(), 0.2
    inputs, labels = sample(40)
    statistics = gradient_statistics(model, in_pieces(inputs, labels, 10)(), decay=decay)
    sharpness, gradients, losses = [], [], []
    for piece, targets in in_pieces(inputs, labels, 10)():
        hessian, gradient, weights = explicit(network(), piece, targets)
        whole = gradient + decay * weights
        sharpness.append(whole @ (hessian + decay * np.eye(len(hessian))) @ whole / (whole @ whole))
        gradients.append(gradient)
        losses.append(nn.functional.cross_entropy(model(piece), targets).item())
    assert statistics.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert statistics.gradient_norm == pytest.approx(np.linalg.norm(np.mean(gradients, 0) + decay * weights), rel=1e-4)
    assert statistics.weight_norm == pytest.approx(np.linalg.norm(weights), rel=1e-5)
    assert statistics.batch_sharpness == pytest.approx(np.mean(sharpness[::2]), rel=1e-4)
    normalised = np.array([gradient / np.linalg.norm(gradient) for gradient in gradients])
    cosines = (normalised @ normalised.T)[np.triu_indices(4, 1)]
    assert statistics.mean_cosine == pytest.approx(cosines.mean(), abs=1e-5)
    assert statistics.smallest_cosine == pytest.approx(cosines.min(), abs=1e-5)


def test_noise_scale_is_unbiased():
    """A linear network on zero-mean noise around a shift: tr Σ and |G|² are known."""
    model = nn.Linear(6, 2, bias=False)
    nn.init.zeros_(model.weight)
    draw, shift = torch.Generator().manual_seed(1), 0.8
    estimates = []
    for _ in range(200):
        inputs = torch.randn(8 * 16, 6, generator=draw)
        inputs[:, 0] += shift
        labels = torch.zeros(len(inputs), dtype=torch.int64)
        estimates.append(gradient_statistics(model, zip(inputs.split(16), labels.split(16), strict=True)))
    # At zero weights the gradient of an image is (-x/2, x/2): its covariance is half the identity's, 6 dimensions.
    expected = 6 * 0.5 / (shift**2 * 0.5)
    noise = [estimate.noise_scale for estimate in estimates if estimate.noise_scale is not None]
    assert len(noise) > 190 and np.median(noise) == pytest.approx(expected, rel=0.1)
