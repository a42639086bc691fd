"""Darknet's files: every published network is told by its cfg or by its size, whole files load, others are refused."""

from __future__ import annotations

import re
import struct
from dataclasses import replace

import darknet_networks
import darknet_reference
import numpy as np
import pytest
import torch
from darknet_networks import NETWORKS, PUBLISHED_BYTES

from edgedet.errors import CheckpointError
from edgedet.models import checkpoint, darknet, darknet_cfg, yolov3, yolov4
from edgedet.models.darknet_cfg import Cfg, Connected, Convolutional, Local

COUNTS = {name: (size - 20) // 4 for name, size in PUBLISHED_BYTES.items()}
PICTURES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def tiny_numbers() -> np.ndarray:
    """Numbers for YOLOv4-tiny of 3 classes."""
    return darknet_reference.random_numbers(darknet_networks.yolov4_tiny(classes=3), PICTURES)


def known(name: str, classes: int) -> Cfg:
    family, _, variant = name.partition("-")
    return darknet.Known(family, variant).published(classes)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_published_network_has_as_many_numbers_as_the_published_file(name):
    assert darknet.size(known(name, 80)) == COUNTS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_published_cfg_is_the_network_we_build(name, tmp_path):
    (tmp_path / "a.cfg").write_text(NETWORKS[name](classes=7))
    read, built = darknet_cfg.parse(tmp_path / "a.cfg"), known(name, 7)
    assert read.layers == built.layers
    for ours, theirs in zip(built.layers, read.layers, strict=True):
        if isinstance(ours, darknet_cfg.Yolo):  # whose anchors and scale do not count as another network
            assert (ours.anchors, ours.scale_x_y) == (theirs.anchors, theirs.scale_x_y)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("classes", [1, 3, 80, 601])
def test_without_a_cfg_the_size_tells_network_and_classes(name, classes, tmp_path):
    network, cfg = darknet._of_size(tmp_path / "a.weights", darknet.size(known(name, classes)))
    assert (network.name, cfg.classes) == (name, classes)


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny"])
def test_a_written_file_has_the_published_size_and_cocos_names(name, tmp_path):
    numbers = darknet_reference.random_numbers(NETWORKS[name](), PICTURES)
    path = darknet_reference.write(tmp_path / f"{name}.weights", numbers)
    assert path.stat().st_size == PUBLISHED_BYTES[name]
    spec = checkpoint.load(path).spec
    assert (spec.name, spec.size_hw, len(spec.classes), spec.classes[0]) == (name, (416, 416), 80, "person")


@pytest.mark.parametrize("cfg", ["same name", "alone in the folder", None])
def test_a_file_loads_with_the_cfg_beside_it_and_without(cfg, tiny_numbers, tmp_path):
    path = darknet_reference.write(tmp_path / "a.weights", tiny_numbers)
    if cfg:
        (tmp_path / ("a.cfg" if cfg == "same name" else "other.cfg")).write_text(darknet_networks.yolov4_tiny(320, 3))
    if cfg == "same name":
        (tmp_path / "other.cfg").write_text("[net]")
    loaded = checkpoint.load(path, classes=("a", "b", "c"))
    assert (loaded.spec.name, loaded.spec.classes) == ("yolov4-tiny", ("a", "b", "c"))
    assert loaded.spec.size_hw == ((320, 320) if cfg else (416, 416))
    first = loaded.detector.state_dict()["layers.0.bn.bias"]
    np.testing.assert_array_equal(first, tiny_numbers[:32])


def test_files_of_the_oldest_version_count_their_pictures_in_four_bytes(tiny_numbers, tmp_path):
    new, old = (darknet_reference.write(tmp_path / f"{v[1]}.weights", tiny_numbers, version=v) for v in ((0, 2), (0, 1)))
    assert old.stat().st_size == new.stat().st_size - 4
    for one, other in zip(darknet.read(new).state.values(), darknet.read(old).state.values(), strict=True):
        assert torch.equal(one, other)


def test_anchors_scale_size_and_letterbox_are_the_cfgs_and_stay_when_saved(tiny_numbers, tmp_path):
    text = darknet_networks.yolov4_tiny(320, 3, net="letter_box=1\n").replace("10,14", "11, 15").replace("23,27", "24,28")
    text = text.replace("scale_x_y = 1.05", "scale_x_y = 1.3").replace("height=320", "height=256")
    loaded = checkpoint.load(darknet_reference.write(tmp_path / "a.weights", tiny_numbers, text=text))
    assert (loaded.spec.size_hw, loaded.spec.letterbox_anchor) == ((256, 320), "center")
    checkpoint.save(tmp_path / "b.safetensors", loaded.detector.state_dict(), loaded.spec)
    for detector, spec in (loaded, checkpoint.load(tmp_path / "b.safetensors")):
        assert spec.size_hw == (256, 320)
        coarse, fine = detector.heads
        assert fine.anchors.tolist() == [[24, 28], [37, 58], [81, 82]]
        assert coarse.anchors.tolist() == [[81, 82], [135, 169], [344, 319]]
        assert coarse.scale.item() == fine.scale.item() == pytest.approx(1.3)


@pytest.mark.parametrize(("letter_box", "anchor"), [("", "stretch"), ("letter_box=0", "stretch"), ("letter_box=1", "center")])
def test_frames_are_stretched_by_yolov4_unless_the_cfg_wants_bars(letter_box, anchor, tiny_numbers, tmp_path):
    text = darknet_networks.yolov4_tiny(classes=3, net=f"{letter_box}\n")
    spec = checkpoint.load(darknet_reference.write(tmp_path / "a.weights", tiny_numbers, text=text)).spec
    assert spec.letterbox_anchor == anchor


TEXT = darknet_networks.yolov4_tiny(classes=3)
WRONG = {
    "cut short": (TEXT, lambda data: data[:-4000], r"a\.weights is cut short: it holds \d+ numbers, but a\.cfg needs \d+"),
    "cut within a number": (TEXT, lambda data: data[:-1], r"a\.weights is cut short: its \d+ bytes end within"),
    "empty": (TEXT, lambda data: b"", r"a\.weights is cut short: its 0 bytes"),
    "too long": (TEXT, lambda data: data + data[-400:], r"is of another network than its cfg: it holds \d+ numbers"),
    "cut short, no cfg": (
        None,
        lambda data: data[:-4000],
        r"holds \d+ numbers, where yolov4-tiny of 80 classes has 6062814",
    ),
    "other activation": (
        TEXT.replace("leaky", "relu", 1),
        bytes,
        r"nearest is yolov4-tiny, but layer 0 is .*'relu'.* instead",
    ),
    "one layer more": (f"{TEXT}\n[upsample]\nstride=2", bytes, r"nearest is yolov4-tiny, but layer 38 is Upsample.* of absent"),
    "an unknown layer": (TEXT.replace("[maxpool]", "[gru]", 1), bytes, r"a\.cfg: a value in it cannot be used \(a \[gru\]\)"),
    "no number": (TEXT.replace("filters=32", "filters=many", 1), bytes, r"a value in it cannot be used \(.*many"),
    "no anchor of the mask": (TEXT.replace("3,4,5", "3,4,9"), bytes, r"a value in it cannot be used"),
    "grey pictures": (TEXT.replace("channels=3", "channels=1"), bytes, r"wants pictures of 1 channels"),
    "no cfg at all": ("nothing", bytes, r"does not begin with \[net\]"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_files_that_do_not_fit_are_refused_in_one_sentence(fault, tiny_numbers, tmp_path):
    text, change, words = WRONG[fault]
    path = darknet_reference.write(tmp_path / "a.weights", tiny_numbers, text=text)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError) as raised:
        checkpoint.load(path)
    assert re.search(words, str(raised.value)), raised.value
    assert "\n" not in str(raised.value)


def test_a_cfg_that_is_no_text_is_refused(tiny_numbers, tmp_path):
    path = darknet_reference.write(tmp_path / "a.weights", tiny_numbers)
    (tmp_path / "a.cfg").write_bytes(b"\xff\xfe\x00[net]")
    with pytest.raises(CheckpointError, match=r"a\.cfg: is no text"):
        checkpoint.load(path)


def test_a_size_that_fits_two_networks_is_not_guessed(monkeypatch, tmp_path):
    twins = [darknet.Known("yolov3", "tiny"), darknet.Known("yolov3", "tiny")]
    monkeypatch.setattr(darknet, "known", lambda: twins)
    with pytest.raises(CheckpointError, match=r"fits yolov3-tiny of 4 or yolov3-tiny of 4 classes; lay a\.cfg beside it"):
        darknet._of_size(tmp_path / "a.weights", darknet.size(known("yolov3-tiny", 4)))


def test_connected_and_local_layers_lie_as_darknet_writes_them(tmp_path):
    layers = (
        Convolutional(2, 3, 1, 1, activation="leaky"),
        Local(4, 3, 1, 1, "leaky"),
        Connected(5, 1, "leaky"),
        Connected(6, 0, "linear"),
    )
    cfg = Cfg(layers, 4, 3)
    wanted = {
        "layers.0.conv.bias": (2,), "layers.0.conv.weight": (2, 3, 3, 3),
        "layers.1.bias": (4, 3, 4), "layers.1.weight": (12, 4, 2, 3, 3),
        "layers.2.bn.bias": (5,), "layers.2.linear.weight": (5, 48),
        "layers.2.bn.weight": (5,), "layers.2.bn.running_mean": (5,), "layers.2.bn.running_var": (5,),
        "layers.3.linear.bias": (6,), "layers.3.linear.weight": (6, 5),
    }  # fmt: skip
    assert dict(darknet.shapes(cfg)) == wanted
    numbers = np.arange(darknet.size(cfg), dtype=np.float32)
    state = darknet.tensors(cfg, numbers)
    assert list(state) == list(wanted)
    np.testing.assert_array_equal(torch.cat([tensor.flatten() for tensor in state.values()]), numbers)
    turned = darknet.tensors(cfg, numbers, transposed=True)["layers.3.linear.weight"]
    np.testing.assert_array_equal(turned.T.flatten(), numbers[-30:])


@pytest.mark.parametrize(("version", "transposed"), [((0, 2), False), ((1001, 0), True), ((0, 1001), True)])
def test_versions_beyond_a_thousand_have_transposed_matrices_and_a_short_header(version, transposed, tmp_path):
    header = struct.pack("<3i", *version, 0) + (bytes(4) if transposed else bytes(8))
    (tmp_path / "a.weights").write_bytes(header + np.arange(3, dtype="<f4").tobytes())
    numbers, found = darknet._numbers(tmp_path / "a.weights")
    assert (numbers.tolist(), found) == ([0, 1, 2], transposed)


@pytest.mark.parametrize(("module", "variant"), [(m, v) for m in (yolov3, yolov4) for v in ("", "tiny")])
@pytest.mark.parametrize("classes", [1, 7])
def test_every_network_is_recognised_from_its_tensors(module, variant, classes):
    with torch.device("meta"):
        state = module.build(variant, classes).state_dict()
    assert checkpoint._recognise("a", state)[:3] == (module.__name__.rpartition(".")[2], variant, classes)
    assert module.recognise({k: v for k, v in state.items() if "anchors" not in k}) is None
    odd = {k: torch.tensor(1.0) if k.endswith("conv.bias") else v for k, v in state.items()}
    assert module.recognise(odd) is None


def test_the_first_layers_of_a_network_are_what_darknet53_conv_74_holds():
    cfg = known("yolov3", 80)
    assert darknet.size(replace(cfg, layers=cfg.layers[:74])) * 4 + 20 == 162482580  # the published file's size


@pytest.mark.parametrize(("name", "count"), [("yolov3-tiny", 11), ("yolov3-tiny", 15), ("yolov4-tiny", 29)])
def test_training_starts_from_the_first_layers_of_a_classifier(name, count, tmp_path):
    cfg = known(name, 3)
    size = darknet.size(replace(cfg, layers=cfg.layers[:count]))
    numbers = np.random.default_rng(0).random(size, np.float32)
    path = darknet_reference.write(tmp_path / f"{name}.conv.{count}", numbers)
    detector = checkpoint.build(name, 3)
    before = {key: tensor.clone() for key, tensor in detector.state_dict().items()}
    loaded = checkpoint.load_backbone(detector, path)
    changed = [key for key, tensor in detector.state_dict().items() if not torch.equal(tensor, before[key])]
    assert loaded == len(changed) == len([key for key in detector.classification_names() if "tracked" not in key])
    np.testing.assert_array_equal(detector.state_dict()["layers.0.bn.bias"], numbers[: len(before["layers.0.bn.bias"])])
    assert not [key for key in changed if int(key.split(".")[1]) >= count]
    darknet_reference.write(path, numbers[:-1])
    with pytest.raises(CheckpointError, match=f"not the first {count} layers"):
        checkpoint.load_backbone(detector, path)


def test_another_networks_first_layers_are_not_taken(tmp_path):
    cfg = known("yolov3-tiny", 3)
    size = darknet.size(replace(cfg, layers=cfg.layers[:11]))
    path = darknet_reference.write(tmp_path / "a.conv.11", np.zeros(size, np.float32))
    assert checkpoint.load_backbone(checkpoint.build("yolov4-tiny", 3), path) is None


def test_a_cfg_with_other_anchors_is_the_same_network():
    cfg = known("yolov3-tiny", 3)
    last = replace(cfg.layers[-1], anchors=(1.0, 2, 3, 4, 5, 6), scale_x_y=1.5)
    assert (*cfg.layers[:-1], last) == cfg.layers
