"""Deformable convolution against torchvision's, against loops over its definition, and as a file on every runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from edgedet.models.deformable import DeformableConv, deformable_conv

TOLERANCE = 1e-5


def example(seed: int = 0) -> tuple[torch.Tensor, ...]:
    """x (2, 5, 7, 11), offsets of some pixels, many out of the map, masks, weights for results near 1, bias."""
    torch.manual_seed(seed)
    weight = torch.randn(4, 5, 3, 3) / 45**0.5
    return torch.randn(2, 5, 7, 11), torch.randn(2, 18, 7, 11) * 3, torch.rand(2, 9, 7, 11), weight, torch.randn(4)


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """(C,) values of (C, H, W) between four pixels; those outside are zero."""
    total = np.zeros(len(image))
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                total += image[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return total


def by_definition(x, offsets, masks, weight, bias) -> np.ndarray:
    """y(p₀) = Σ_k w_k · x(p₀ + p_k + Δp_k) · m_k + b (arXiv:1811.11168, equation 1), one pixel and tap after the other."""
    batch, _, height, width = x.shape
    result = np.zeros((batch, len(weight), height, width)) + bias.reshape(1, -1, 1, 1)
    for b, row, column, k in np.ndindex(batch, height, width, 9):
        down, right = offsets[b, 2 * k, row, column], offsets[b, 2 * k + 1, row, column]
        value = bilinear(x[b], row + k // 3 - 1 + down, column + k % 3 - 1 + right)
        result[b, :, row, column] += weight[:, :, k // 3, k % 3] @ value * masks[b, k, row, column]
    return result


def test_it_is_torchvisions_to_1e_5(torchvision):
    x, offsets, masks, weight, bias = example()
    theirs = torchvision.ops.deform_conv2d(x, offsets, weight, bias, padding=1, mask=masks)
    torch.testing.assert_close(deformable_conv(x, offsets, masks, weight, bias), theirs, rtol=0, atol=TOLERANCE)


def test_it_is_its_definition_to_1e_5():
    values = example(1)
    wanted = by_definition(*(v.double().numpy() for v in values))
    np.testing.assert_allclose(deformable_conv(*values).numpy(), wanted, rtol=0, atol=TOLERANCE)


def test_without_offsets_and_with_full_masks_it_is_an_ordinary_convolution():
    x, offsets, masks, weight, bias = example()
    ours = deformable_conv(x, offsets * 0, torch.ones_like(masks), weight, bias)
    ordinary = torch.nn.functional.conv2d(x, weight, bias, padding=1)
    torch.testing.assert_close(ours, ordinary, rtol=0, atol=TOLERANCE)


def test_untrained_it_is_half_an_ordinary_convolution():
    layer = DeformableConv(5, 4)
    x = example()[0]
    ordinary = torch.nn.functional.conv2d(x, layer.weight, padding=1)
    torch.testing.assert_close(layer(x), ordinary / 2, rtol=0, atol=TOLERANCE)


def test_all_that_is_learnt_gets_a_gradient():
    layer = DeformableConv(5, 4)
    layer(example()[0]).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in layer.parameters())


def test_onnx_runtime_and_openvino_run_it_to_1e_5(tmp_path):
    openvino = pytest.importorskip("openvino")
    torch.manual_seed(0)
    layer = DeformableConv(5, 4).eval()
    torch.nn.init.normal_(layer.conv_offset_mask.weight, std=0.3)
    x = example()[0]
    path = tmp_path / "layer.onnx"
    torch.onnx.export(layer, (x,), path, dynamo=True, opset_version=19, external_data=False, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = [session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]]
    found.append(openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([x.numpy()])[0])
    for result in found:
        np.testing.assert_allclose(result, layer(x).detach(), rtol=0, atol=TOLERANCE)
