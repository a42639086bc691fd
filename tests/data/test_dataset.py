"""Every format is found by looking and gives the same objects; what is wrong in a data set is counted, not fatal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgedet.data import coco
from edgedet.data.dataset import Dataset, open_dataset
from edgedet.errors import DataError, ImageError, SplitAbsent

TWO_BOXES = np.float32([[10, 20, 50, 60], [0, 0, 100, 80]])  # classes cat, dog in a 100x80 image


def save_image(path: Path, width: int = 100, height: int = 80) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    return path


def save_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def coco_content(boxes=((10, 20, 40, 40), (0, 0, 100, 80)), ids=(7, 9), file_name="a.jpg") -> dict:
    """COCO JSON of one 100x80 image, boxes in xywh; categories 7 cat and 9 dog, listed out of order."""
    return {
        "images": [{"id": 5, "file_name": file_name, "width": 100, "height": 80}],
        "categories": [{"id": 9, "name": "dog"}, {"id": 7, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": 5, "category_id": category, "bbox": list(box)}
            for n, (box, category) in enumerate(zip(boxes, ids, strict=True))
        ],
    }


def make_coco(root: Path) -> Path:
    save_image(root / "images/a.jpg")
    return save_json(root / "instances_all.json", coco_content())


def voc_xml(objects=(("cat", 10, 20, 50, 60, 0), ("dog", 0, 0, 100, 80, 0)), size=(100, 80)) -> str:
    items = "".join(
        f"<object><name>{name}</name><difficult>{hard}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
        f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for name, x1, y1, x2, y2, hard in objects
    )
    return f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>{items}</annotation>"


def make_voc(root: Path, image="JPEGImages/a.jpg", annotations="Annotations", splits="ImageSets/Main", **content) -> Path:
    save_image(root / image)
    (root / annotations).mkdir(exist_ok=True)
    (root / annotations / "a.xml").write_text(voc_xml(**content))
    (root / splits).mkdir(parents=True, exist_ok=True)
    (root / splits / "val.txt").write_text("a\n")
    return root


YOLO_LINES = "0 0.3 0.5 0.4 0.5\n1 0.5 0.5 1 1\n"


def make_yolo(root: Path, lines: str = YOLO_LINES) -> Path:
    save_image(root / "images/val/a.jpg")
    (root / "labels/val").mkdir(parents=True)
    (root / "labels/val/a.txt").write_text(lines)
    (root / "classes.txt").write_text("cat\ndog\n")
    return root


def make_yaml(root: Path, text: str = "names: [cat, dog]\ntrain: images/train\nval: images/val\n") -> Path:
    make_yolo(root)
    save_image(root / "images/train/b.png")
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text(text)
    return root


@pytest.mark.parametrize("make", [make_coco, make_voc, make_yolo, make_yaml])
def test_every_format_gives_the_same_objects(tmp_path, make):
    dataset = open_dataset(make(tmp_path), split=None if make is make_coco else "val")
    assert dataset.classes == ("cat", "dog")
    assert dataset.annotated
    assert not dataset.problems
    (sample,) = dataset.samples
    np.testing.assert_allclose(sample.boxes, TWO_BOXES, atol=1e-4)
    assert (sample.boxes.dtype, sample.labels.dtype, sample.crowd.dtype) == (np.float32, np.int32, bool)
    assert sample.labels.tolist() == [0, 1]
    assert sample.size_hw == (80, 100)
    assert sample.read().shape == (80, 100, 3)


def test_category_ids_with_holes_become_labels_in_their_order(coco_val):
    dataset = open_dataset(coco_val)
    assert len(dataset.classes) == 80
    assert (dataset.classes[0], dataset.classes[11], dataset.classes[79]) == ("person", "stop sign", "toothbrush")
    assert len(dataset) == 64
    assert sum(len(sample.boxes) for sample in dataset.samples) == 509
    assert sum(int(sample.crowd.sum()) for sample in dataset.samples) == 3


def test_blood_cells_hold_two_boxes_without_area(bccd):
    dataset = open_dataset(bccd)
    assert dataset.classes == ("Platelets", "RBC", "WBC")
    assert (len(dataset), dataset.problems.zero_area) == (292, 2)
    assert str(dataset.problems) == "2 zero-area boxes dropped"
    assert [len(open_dataset(bccd, split=split)) for split in ("train", "val")] == [205, 87]


def test_written_coco_reads_back_the_same(coco_val, tmp_path):
    dataset = open_dataset(coco_val)
    coco.write(dataset, tmp_path / "copy.json")
    assert_equal(open_dataset(tmp_path / "copy.json"), dataset)


def test_written_coco_moves_with_its_images(tmp_path):
    dataset = open_dataset(make_yolo(tmp_path / "here"))
    coco.write(dataset, tmp_path / "here/instances_val.json")
    (tmp_path / "here").rename(tmp_path / "there")
    assert len(open_dataset(tmp_path / "there/instances_val.json")) == 1


def assert_equal(first: Dataset, second: Dataset) -> None:
    assert first.classes == second.classes
    for a, b in zip(first.samples, second.samples, strict=True):
        assert (a.path.resolve(), a.image_id, a.size_hw) == (b.path.resolve(), b.image_id, b.size_hw)
        np.testing.assert_allclose(a.boxes, b.boxes, atol=1e-3)  # xywh in float32 and back
        for name in ("labels", "crowd", "areas"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


# What is wrong is counted.


def test_unusable_boxes_are_counted_and_dropped(tmp_path):
    boxes = [
        (10, 20, 40, 40),
        (5, 5, 0, 9),
        (5, 5, -3, 9),
        (90, 70, 50, 50),
        (200, 200, 9, 9),
        (1, 1, 5, 5),
        (1, 1, float("nan"), 5),
    ]
    save_image(tmp_path / "a.jpg")
    path = save_json(tmp_path / "some.json", coco_content(boxes, (7, 7, 7, 9, 9, 1234, 7)))
    dataset = open_dataset(path)
    problems = dataset.problems
    assert (problems.zero_area, problems.clipped, problems.outside, problems.unknown_class) == (3, 1, 1, 1)
    np.testing.assert_allclose(dataset.samples[0].boxes, [[10, 20, 50, 60], [90, 70, 100, 80]])
    assert str(problems) == (
        "3 zero-area boxes dropped; 1 boxes clipped to the image; "
        "1 boxes outside the image dropped; 1 boxes of unknown class dropped"
    )


def test_absent_images_are_counted_and_named(tmp_path):
    path = make_coco(tmp_path)
    content = json.loads(path.read_text())
    content["images"].append({"id": 6, "file_name": "gone.jpg", "width": 9, "height": 9})
    content["annotations"].append({"id": 9, "image_id": 77, "category_id": 7, "bbox": [0, 0, 5, 5]})
    dataset = open_dataset(save_json(path, content))
    assert len(dataset) == 1
    assert dataset.problems.absent == ("image id 77", str(tmp_path / "images/gone.jpg"))
    assert "2 annotated images absent" in str(dataset.problems)


def test_all_images_absent_is_an_error_that_names_the_first(tmp_path):
    path = save_json(tmp_path / "instances_val.json", coco_content())
    with pytest.raises(DataError, match=r"all 1 annotated images are absent, first looked for .*a\.jpg"):
        open_dataset(path)


@pytest.mark.parametrize("content", [b"", b"not an image at all"])
def test_unreadable_images_are_named_and_left_out(tmp_path, content):
    save_image(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(content)
    dataset = open_dataset(tmp_path)
    assert [sample.path.name for sample in dataset.samples] == ["good.png"]
    assert "bad.jpg" in str(dataset.problems)
    (tmp_path / "good.png").unlink()
    with pytest.raises(DataError, match=r"no readable image; .*bad\.jpg"):
        open_dataset(tmp_path)


def test_a_truncated_yolo_image_is_named_and_left_out(tmp_path):
    make_yolo(tmp_path)
    whole = save_image(tmp_path / "images/val/b.jpg").read_bytes()
    (tmp_path / "images/val/b.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "labels/val/b.txt").write_text(YOLO_LINES)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 1
    assert "JPEG is truncated" in dataset.problems.unreadable[0]


def test_images_without_an_annotation_file_are_counted_as_empty(tmp_path):
    make_yolo(tmp_path / "yolo")
    save_image(tmp_path / "yolo/images/val/b.jpg")
    make_voc(tmp_path / "voc")
    save_image(tmp_path / "voc/JPEGImages/b.jpg")
    (tmp_path / "voc/ImageSets/Main/val.txt").write_text("a\nb.jpg\nc\n")
    for name, absent in (("yolo", ()), ("voc", ("c",))):
        dataset = open_dataset(tmp_path / name, split="val")
        assert [len(sample.boxes) for sample in dataset.samples] == [2, 0]
        assert dataset.problems.unannotated == 1
        assert dataset.problems.absent == absent


# Classes.


def test_labels_are_mapped_by_name_onto_a_models_classes(tmp_path):
    dataset = open_dataset(make_yolo(tmp_path), classes=["bird", "Dog "])
    assert dataset.classes == ("bird", "Dog ")
    assert dataset.samples[0].labels.tolist() == [1]
    assert dataset.problems.unknown_class == 1


def test_no_common_class_is_an_error_that_shows_both_lists(tmp_path):
    with pytest.raises(DataError, match=r"none of its 2 classes \(cat, dog\) is among the model's 4 \(a, b, c and 1 more\)"):
        open_dataset(make_yolo(tmp_path), classes=list("abcd"))


def test_plain_images_take_a_models_classes(tmp_path):
    save_image(tmp_path / "deep/down/a.png")
    dataset = open_dataset(tmp_path, classes=["cat"])
    assert (dataset.classes, dataset.annotated, len(dataset)) == (("cat",), False, 1)
    assert len(open_dataset(tmp_path / "deep/down/a.png")) == 1


def test_the_label_of_a_class_does_not_depend_on_the_split(tmp_path):
    make_voc(tmp_path)
    (tmp_path / "Annotations/b.xml").write_text(voc_xml(objects=[("ant", 1, 1, 5, 5, 0)]))
    assert open_dataset(tmp_path, split="val").classes == ("ant", "cat", "dog")


# Where things lie.


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("instances_val.json", "images/a.jpg"),
        ("annotations/instances_val2017.json", "val2017/a.jpg"),
        ("annotations/instances_val2017.json", "images/val2017/a.jpg"),
        ("annotations/instances_val.json", "images/a.jpg"),
        ("valid/_annotations.coco.json", "valid/a.jpg"),
        ("annotations/val.json", "a.jpg"),
    ],
)
def test_coco_layouts_in_use_are_found(tmp_path, file, image):
    save_image(tmp_path / image)
    save_json(tmp_path / file, coco_content())
    assert len(open_dataset(tmp_path, split="val")) == 1
    assert len(open_dataset(tmp_path)) == 1


def test_several_coco_files_are_listed_unless_a_split_chooses(tmp_path):
    make_coco(tmp_path)
    save_json(tmp_path / "instances_val.json", coco_content())
    with pytest.raises(DataError, match=r"several COCO files; name one of: .*instances_all\.json, .*instances_val\.json"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, split="val")) == 1
    with pytest.raises(DataError, match="0 COCO files for the split 'train'"):
        open_dataset(tmp_path, split="train")
    with pytest.raises(DataError, match="one annotation file, so it has no split 'train'"):
        open_dataset(tmp_path / "instances_val.json", split="train")


def test_voc_beside_its_images_with_a_plain_list(tmp_path):
    make_voc(tmp_path, image="annotations/a.png", annotations="annotations", splits=".")
    assert len(open_dataset(tmp_path, split="val")) == 1


def test_voc_difficult_objects_and_missing_sizes(tmp_path):
    make_voc(tmp_path, objects=[("cat", 1, 1, 9, 9, 1), ("cat", 5, 5, 500, 9, 0)], size=(0, 0))
    dataset = open_dataset(tmp_path)
    assert dataset.samples[0].crowd.tolist() == [True, False]
    assert dataset.samples[0].size_hw == (80, 100)
    assert dataset.problems.clipped == 1


@pytest.mark.parametrize(
    "text",
    [
        "names: {0: cat, 1: dog}\nval: [images/val]\n",
        "path: .\nnames: [cat, dog]\nval: ../images/val\n",
        "names: [cat, dog]\nval: list.txt\n",
    ],
)
def test_yolo_configurations_in_use_are_understood(tmp_path, text):
    make_yaml(tmp_path, text)
    (tmp_path / "list.txt").write_text("./images/val/a.jpg\n")
    for path in (tmp_path, tmp_path / "data.yaml"):
        assert [sample.labels.tolist() for sample in open_dataset(path, split="val").samples] == [[0, 1]]


def test_all_splits_of_a_yolo_configuration_are_read_without_one(tmp_path):
    dataset = open_dataset(make_yaml(tmp_path))
    assert sorted(sample.path.name for sample in dataset.samples) == ["a.jpg", "b.png"]
    assert len({sample.image_id for sample in dataset.samples}) == 2


def test_yolo_polygons_become_their_bounding_boxes(tmp_path):
    dataset = open_dataset(make_yolo(tmp_path, "1 0.1 0.25 0.5 0.25 0.3 0.75\n"))
    np.testing.assert_allclose(dataset.samples[0].boxes, [[10, 20, 50, 60]], atol=1e-4)


def test_yolo_boxes_follow_the_upright_image(tmp_path):
    make_yolo(tmp_path)
    jpeg = save_image(tmp_path / "images/val/a.jpg", width=80, height=100).read_bytes()
    (tmp_path / "images/val/a.jpg").write_bytes(with_exif_orientation(jpeg, 6))
    sample = open_dataset(tmp_path).samples[0]
    assert sample.size_hw == sample.read().shape[:2] == (80, 100)
    np.testing.assert_allclose(sample.boxes, TWO_BOXES, atol=1e-4)


def with_exif_orientation(jpeg: bytes, orientation: int) -> bytes:
    """The JPEG with an Exif block that holds only the orientation tag (Exif 2.3, little endian)."""
    tag = b"\x12\x01\x03\x00\x01\x00\x00\x00" + bytes([orientation, 0, 0, 0])
    exif = b"Exif\0\0II*\0\x08\x00\x00\x00\x01\x00" + tag + b"\0\0\0\0"
    return jpeg[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + jpeg[2:]


# Refusals, each one message.


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "{}", '{"images": 3, "categories": [], "annotations": []}', '{"images": [', '"x"']
)
def test_json_that_is_not_coco_is_refused_by_name(tmp_path, text):
    (tmp_path / "some.json").write_text(text)
    with pytest.raises(DataError, match=r"some\.json: not COCO instances JSON"):
        open_dataset(tmp_path / "some.json")


def test_a_coco_box_of_three_numbers_is_refused(tmp_path):
    save_image(tmp_path / "a.jpg")
    with pytest.raises(DataError, match="not COCO instances JSON"):
        open_dataset(save_json(tmp_path / "some.json", coco_content([(1, 2, 3)], (7,))))


@pytest.mark.parametrize(
    "xml",
    [
        "<annotation><object>",
        "<annotation><object><name>cat</name></object></annotation>",
        voc_xml(objects=[("cat", "left", 1, 9, 9, 0)]),
        voc_xml(objects=[("", 1, 1, 9, 9, 0)]),
        '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
    ],
)
def test_xml_that_is_broken_or_expands_entities_is_refused_by_name(tmp_path, xml):
    make_voc(tmp_path)
    (tmp_path / "Annotations/a.xml").write_text(xml)
    with pytest.raises(DataError, match=r"a\.xml: not Pascal VOC XML"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "cat 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1 0.1 0.9"])
def test_a_broken_yolo_line_is_refused_by_number(tmp_path, line):
    with pytest.raises(DataError, match=r"a\.txt:2: .* is neither"):
        open_dataset(make_yolo(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n"))


@pytest.mark.parametrize("text", ["names: [a", "val: images/val", "names: {1: cat}\nval: images/val", "just text"])
def test_a_broken_yolo_configuration_is_refused_by_name(tmp_path, text):
    with pytest.raises(DataError, match=r"data\.yaml"):
        open_dataset(make_yaml(tmp_path, text), split="val")


def test_yolo_labels_without_class_names_say_what_to_add(tmp_path):
    make_yolo(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"add classes\.txt"):
        open_dataset(tmp_path)


def test_a_split_that_is_not_there_lists_those_that_are(tmp_path):
    make_voc(tmp_path / "voc"), make_yolo(tmp_path / "yolo"), make_yaml(tmp_path / "yaml")
    save_image(tmp_path / "plain/a.png")
    for name, there in (
        ("voc", "there are: val"),
        ("yolo", "there are: val"),
        ("yaml", "it has: train, val"),
        ("plain", "leave the split out"),
    ):
        with pytest.raises(DataError, match=there):
            open_dataset(tmp_path / name, split="odd")


def test_an_empty_folder_and_an_absent_one_are_refused(tmp_path):
    with pytest.raises(DataError, match="no data set; expected COCO JSON"):
        open_dataset(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        open_dataset(tmp_path / "gone")
    empty = {"images": [], "categories": [], "annotations": []}
    with pytest.raises(DataError, match="the data set is empty"):
        open_dataset(save_json(tmp_path / "none.json", empty))


def test_an_image_of_another_size_than_its_annotations_is_an_error(tmp_path):
    path = make_coco(tmp_path)
    save_image(tmp_path / "images/a.jpg", width=64)
    with pytest.raises(ImageError, match="is 64x80 but its annotations say 100x80"):
        open_dataset(path).samples[0].read()


def test_a_bad_image_is_reported_once_and_opencv_stays_silent(tmp_path):
    save_image(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken IEND")
    code = (
        "import sys; from pathlib import Path; from edgedet.data.dataset import open_dataset\n"
        "for sample in open_dataset(Path(sys.argv[1])).samples: sample.read()"
    )
    result = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert "bad.png" in result.stderr.splitlines()[-1]
    assert "ERROR:" not in result.stderr
    assert "WARN:" not in result.stderr


def _coco_height(root: Path) -> Path:
    return _text(root / "instances.json", json.dumps(coco_content()).replace('"height": 80', '"height": 1e999'))


def _unreadable(file: Path) -> Path:
    file.symlink_to("/proc/self/mem")  # opens, but cannot be read
    return file


def _text(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    "make",
    [
        _coco_height,
        lambda root: _text(root / "instances.json", json.dumps(coco_content()).replace("80", "1" + "0" * 400)),
        lambda root: _text(root / "instances.json", "[" * 100_000),
        lambda root: make_voc(root, size=("inf", 80)),
        lambda root: make_yaml(root, "names: {0: a, x: b}\nval: images/val"),
        lambda root: _text(root / "data.yaml", "names: [a]\nval: 2001-99-99"),
        lambda root: _text(root / "data.yaml", "[" * 100_000),
        lambda root: _unreadable(root / "data.yaml"),
    ],
    ids=[
        "endless COCO height",
        "huge COCO box",
        "deep JSON",
        "endless VOC width",
        "mixed YAML keys",
        "no date",
        "deep YAML",
        "unreadable",
    ],
)
def test_a_malformed_data_set_is_one_error(tmp_path, make):
    path = make(tmp_path)
    save_image(tmp_path / "images/a.jpg")
    with pytest.raises(DataError, match=str(tmp_path)):
        open_dataset(path)


@pytest.mark.parametrize("make", [make_coco, make_voc, make_yolo, make_yaml], ids=["COCO", "VOC", "YOLO", "YAML"])
def test_a_split_that_is_absent_has_an_error_of_its_own(tmp_path, make):
    make(tmp_path)
    with pytest.raises(SplitAbsent):
        open_dataset(tmp_path, split="test")
