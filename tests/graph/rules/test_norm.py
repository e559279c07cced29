from __future__ import annotations

import numpy as np
import pytest

import sige_deploy as sige

from ..helpers import check, ints, network, weight

FRESH = sige.SparseConfig(dense_above=1.0, statistics="fresh")


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [1, -3])
def test_softmax_over_channels(op: str, axis: int) -> None:
    check(network(f"y = {op}<axis={axis}>(x)", "float[2,4,6,5] x"))


@pytest.mark.parametrize("axis", [1, 2])
def test_softmax_over_packed_channels(axis: int) -> None:
    body = f"s = Reshape(x, shape) y = Softmax<axis={axis}>(s) r = Exp(y) z = Add(r, s)"
    check(network(body, "float[2,6,6,5] x", "float y, float z", {"shape": ints(0, 2, 3, 6, 5)}))


def test_softmax_of_tokens() -> None:
    body = "t = Reshape(x, shape) n = Transpose<perm=[0,2,1]>(t) y = Softmax(n)"
    check(network(body, "float[2,4,6,5] x", weights={"shape": ints(0, 4, 30)}))


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_softmax_over_the_grid_is_refused(axis: int) -> None:
    laws = check(
        network(f"y = Softmax<axis={axis}>(x)", "float[2,4,6,5] x"), islands=["Softmax"], mixed=False
    )
    assert laws.manifest.islands[0].reason == "it normalises over the pixel grid"


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm_of_tokens(op: str, bias: bool) -> None:
    parameters = "g, b" if bias and op == "LayerNormalization" else "g"
    body = f"""
        t = Reshape(x, shape) n = Transpose<perm=[0,2,1]>(t) y = {op}<axis=-1, epsilon=0.01>(n, {parameters})
    """
    weights = {"shape": ints(0, 4, 30), "g": weight(4), "b": weight(4, seed=8)}
    check(network(body, "float[2,4,6,5] x", weights=weights))


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_layer_norm_of_nhwc(op: str) -> None:
    body = f"t = Transpose<perm=[0,2,3,1]>(x) y = {op}(t, g) z = Transpose<perm=[0,3,1,2]>(y)"
    check(network(body, "float[2,4,6,5] x", "float y, float z", {"g": weight(4)}))


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_layer_norm_over_two_channel_axes(op: str) -> None:
    body = f"t = Transpose<perm=[0,2,3,1]>(x) s = Reshape(t, shape) y = {op}<axis=3>(s, g)"
    check(network(body, "float[2,6,6,5] x", weights={"shape": ints(0, 6, 5, 2, 3), "g": weight(2, 3)}))


def test_layer_norm_per_head() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(x) s = Reshape(t, shape) y = RMSNormalization(s, g)"
    check(network(body, "float[2,6,6,5] x", weights={"shape": ints(0, 6, 5, 2, 3), "g": weight(3)}))


@pytest.mark.parametrize("size", [(4,), (1,)])
def test_broadcast_scale(size: tuple[int, ...]) -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(x) y = RMSNormalization(t, g)"
    check(network(body, weights={"g": weight(*size)}))


@pytest.mark.parametrize("op", ["LayerNormalization", "RMSNormalization"])
def test_over_the_grid_too(op: str) -> None:
    """A LayerNormalization of [C, H, W] is a statistic and an affine that varies over the grid."""
    body = f"y = {op}<axis=1>(x, g)"
    model = network(body, "float[2,4,6,5] x", weights={"g": weight(4, 6, 5)})
    if op == "RMSNormalization":
        check(model, islands=None, mixed=False, full=False, commit=False)
        return
    check(model, mixed=False, full=False)
    check(model, config=FRESH, commit=False)


def test_over_one_axis_of_the_grid_is_refused() -> None:
    check(
        network("y = LayerNormalization(x, g)", weights={"g": weight(10)}),
        islands=["LayerNormalization"],
        mixed=False,
    )


def test_statistics_outputs_are_refused() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(x) y, m, s = LayerNormalization(t, g)"
    laws = check(
        network(body, outputs="float y, float m", weights={"g": weight(4)}),
        islands=["LayerNormalization"],
        mixed=False,
    )
    assert laws.manifest.islands[0].reason == "its statistics outputs are used"


def test_computed_scale() -> None:
    """The adaptive norm of a conditioned transformer, with the scale inside the op."""
    body = "t = Transpose<perm=[0,2,3,1]>(x) y = LayerNormalization(t, g, b)"
    laws = check(network(body, "float[1,4,6,5] x, float[4] g", weights={"b": weight(4)}))
    assert laws.input("g").role == "pinned"


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(groups: int) -> None:
    body = f"y = GroupNormalization<num_groups={groups}>(x, g, b)"
    model = network(body, "float[2,4,6,5] x", weights={"g": weight(4), "b": weight(4, seed=8)})
    check(model, mixed=False, full=False)
    check(model, config=FRESH, commit=False)


def test_group_norm_is_the_recorded_affine() -> None:
    weights = {"g": weight(4), "b": weight(4, seed=8)}
    model = network("y = GroupNormalization<num_groups=2>(x, g, b)", weights=weights)
    laws = check(model, mixed=False, full=False)
    edit = laws.session.edit(**laws.edited, mask=np.ones_like(laws.mask))["y"]
    x = laws.recorded["x"].reshape(1, 2, -1)
    mean, deviation = (v.repeat(2, 1).reshape(1, 4, 1, 1) for v in (x.mean(-1), np.sqrt(x.var(-1) + 1e-5)))
    per = (1, 4, 1, 1)
    expected = (laws.edited["x"] - mean) / deviation * weight(4).reshape(per) + weight(4, seed=8).reshape(per)
    np.testing.assert_allclose(edit, expected, atol=1e-5)


def test_instance_and_batch_norm() -> None:
    weights = {n: weight(4, seed=i) for i, n in enumerate("gbm")} | {"v": np.float32([0.5, 1, 2, 3])}
    instance = network("y = InstanceNormalization(x, g, b)", "float[2,4,6,5] x", weights=weights)
    check(instance, mixed=False, full=False)
    check(instance, config=FRESH, commit=False)
    check(network("y = BatchNormalization(x, g, b, m, v)", "float[2,4,6,5] x", weights=weights))


def test_batch_norm_of_pinned_parameters() -> None:
    weights = {"b": weight(4), "m": weight(4, seed=2), "v": np.float32([0.5, 1, 2, 3])}
    laws = check(
        network("y = BatchNormalization(x, g, b, m, v)", "float[2,4,6,5] x, float[4] g", weights=weights)
    )
    assert laws.input("g").role == "pinned"


def test_lp_and_mean_variance_normalisation() -> None:
    check(network("y = LpNormalization<axis=1, p=2>(x)"), islands=None)
    check(network("y = MeanVarianceNormalization<axes=[2,3]>(x)"), islands=None, mixed=False, full=False)
