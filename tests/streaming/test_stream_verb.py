"""`edgedet stream` as its user runs it, with the COCO-trained YOLOX-nano on a real clip."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from web_client import get

from edgedet.streaming.sinks.base import open_sink


@pytest.fixture
def run(edgedet_cli, yolox_nano_pth):
    """Runs the verb with the real model."""
    return lambda *arguments: edgedet_cli("stream", *arguments, "--model", yolox_nano_pth)


def test_a_real_clip_is_detected_tracked_saved_and_summed_up(run, people_mp4, tmp_path):
    video, lines = tmp_path / "out.mp4", tmp_path / "out.jsonl"
    # From frame 64 on a person walks in.
    ended = run(
        people_mp4,
        "--tracker",
        "bytetrack",
        "--save",
        video,
        "--jsonl",
        lines,
        "--classes",
        "person",
        "--max-frames",
        85,
        "--json",
    )
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert (summary["frames"], summary["tracks"]) == (85, 1)
    assert summary["objects"]["person"] >= 15
    assert summary["fps"] > 0
    assert ended.err == ""
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [record["frame"] for record in records] == list(range(85))
    assert [record["time_s"] for record in records[:3]] == [0.0, 0.1, 0.2]
    assert {entry["track_id"] for record in records for entry in record["objects"]} == {1}
    x1, y1, x2, y2 = records[84]["objects"][0]["box"]
    assert 0 <= x1 < x2 <= 768
    assert y2 - y1 > 200  # a person fills most of the picture's 432 rows
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == 85
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.mp4"]


def test_a_folder_of_photos_is_summed_up_as_a_table(run, coco_val, tmp_path):
    for photo in sorted((coco_val.parent / "images").iterdir())[:4]:
        (tmp_path / photo.name).write_bytes(photo.read_bytes())
    ended = run(tmp_path)
    assert ended.code == 0, ended.err
    assert f"{tmp_path}: 4 frames in " in ended.out
    assert "fps" in ended.out
    assert "a frame" in ended.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent.mp4"], "absent.mp4: no such file or folder"),
        (["97"], "camera 97: there is none with this index"),
        (["{clip}", "--tracker", "sort9"], "no tracker named 'sort9'; there are: botsort, bytetrack, ocsort, sort"),
        (["{clip}", "--classes", "person,persn"], "the model has no class 'persn'; did you mean: person"),
        (["{clip}", "--save", "{clip}"], "is also the source; choose another name"),
        (["{clip}", "--save", "out.mp4", "--jsonl", "out.mp4"], "--jsonl out.mp4 is also --save; choose another name"),
        (["{clip}", "--save", "out.avi"], "out.avi: video is written as .mp4"),
        (["{clip}", "--jsonl", "{clip}/out.jsonl"], "a file stands where a folder is needed"),
    ],
)
def test_a_wrong_input_is_one_message_and_exit_code_2(run, write_clip, tmp_path, monkeypatch, arguments, message):
    clip = write_clip(frames=3)
    monkeypatch.chdir(tmp_path)
    ended = run(*(argument.format(clip=clip) for argument in arguments))
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.fixture
def no_model(tmp_path, monkeypatch):
    """A model's file that must not be opened."""

    def opened(*_, **__):
        pytest.fail("the model was opened")

    monkeypatch.setattr("edgedet.runtimes.detector.load", opened)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--serve", "{port}"], "--serve {port} on 127.0.0.1: Address already in use; choose another port"),
        (["--serve", "0", "--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines see the cameras; set --token"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 is where --serve listens; add --serve 8080"),
        (["--mqtt", "mqtt://user:secret@127.0.0.1:{closed}/topic"], "mqtt://127.0.0.1:{closed}/topic: no broker there"),
        (["--webhook", "box/hook"], "box/hook: a webhook is http://HOST/PATH"),
        (["--jsonl", "{folder}/model.onnx/out.jsonl"], "a file stands where a folder is needed"),
        (["--jsonl", "taken.jsonl"], "taken.jsonl: is being written by another sink"),
        (["--save", "out.avi"], "out.avi: video is written as .mp4"),
        (["--tracker", "sort9"], "no tracker named 'sort9'"),
        (["test:320x240", "--show"], "--show is a window for one stream, and there are 2; --serve 8080 shows them all"),
        (["test:160x120"], "test:160x120 is named twice; give each stream a name of its own in a file"),
        (["--runtime", "openvinoo"], "no runtime named 'openvinoo'"),
    ],
)
def test_what_is_cheap_to_know_is_told_before_the_model_is_opened(
    edgedet_cli, no_model, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        socket.socket() as unused,
        open_sink("jsonl", "taken.jsonl", classes=[], fps=None, live=True),
    ):
        unused.bind(("127.0.0.1", 0))
        values = {"port": taken.getsockname()[1], "closed": unused.getsockname()[1], "folder": tmp_path}
        ended = edgedet_cli(
            "stream", "test:160x120", "--model", no_model, *(argument.format(**values) for argument in arguments)
        )
    assert ended.code == 2
    assert message.format(**values) in ended.err
    assert "secret" not in ended.err
    assert ended.err.count("edgedet: ") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_a_zone_outside_a_file_s_frame_is_told_before_the_model_is_opened(edgedet_cli, no_model, write_clip, tmp_path):
    config = tmp_path / "streams.toml"
    config.write_text(
        f'model = "{no_model}"\ntracker = "sort"\n[[stream]]\nname = "gate"\nsource = "{write_clip()}"\n'
        '[[stream.zone]]\nname = "yard"\npolygon = [[0, 0], [640, 0], [640, 480]]\n'
    )
    ended = edgedet_cli("stream", "--config", config)
    assert ended.code == 2
    assert "gate: zone 'yard' has the point (640, 0) outside the frame, which is 160x120; draw it on" in ended.err


def test_the_command_line_goes_before_the_file_for_the_engine_and_fills_in_for_the_streams(tmp_path):
    from edgedet.cli.plans import Engine, Wanted, jobs
    from edgedet.streaming.feed import FeedOptions

    config = tmp_path / "streams.toml"
    config.write_text(
        'model = "a.onnx"\ndevice = "cpu"\nmax_wait_ms = 3\n'
        '[[stream]]\nname = "a"\nsource = "test:"\nmin_score = { car = 0.6 }\n[[stream]]\nname = "b"\nsource = "test:"\n'
    )
    common = Wanted("sort", 0.5, ("car",), FeedOptions(stride=2))
    (first, second), engine = jobs([], config, {}, common, Engine(None, "onnxruntime", "gpu", None))
    assert engine == Engine(Path("a.onnx"), "onnxruntime", "gpu", 3.0)
    assert (first.wanted.tracker, first.wanted.score, first.wanted.feed.stride) == ("sort", {"car": 0.6}, 2)
    assert (first.wanted.least_score, second.wanted.least_score) == (0.3, 0.5)


def test_a_password_in_an_address_is_told_nowhere(edgedet_cli, yolox_nano_pth, tmp_path):
    config = tmp_path / "streams.toml"
    config.write_text(f'model = "{yolox_nano_pth}"\n[[stream]]\nsource = "rtsp://user:secret@127.0.0.1:9/1"\n')
    for arguments in (["rtsp://user:secret@127.0.0.1:9/1", "--model", yolox_nano_pth], ["--config", config]):
        ended = edgedet_cli("stream", *arguments, "--json")
        assert ended.code == 2
        assert "rtsp://127.0.0.1:9/1: " in ended.err
        assert "secret" not in ended.err + ended.out


def test_each_stream_of_a_file_has_its_own_tracks_zones_thresholds_and_sinks(edgedet_cli, yolox_nano_pth, people_mp4, tmp_path):
    """Somebody walks in from the left and past the middle of the picture in the eleventh frame."""
    reader = cv2.VideoCapture(str(people_mp4))
    reader.set(cv2.CAP_PROP_POS_FRAMES, 224)
    writer = cv2.VideoWriter(str(tmp_path / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (768, 432))
    for _ in range(16):
        writer.write(reader.read()[1])
    writer.release()
    config = tmp_path / "streams.toml"
    stream = '[[stream]]\nname = "{name}"\nsource = "{folder}/clip.mp4"\n{more}\n'
    stream += '[[stream.line]]\nname = "middle"\nfrom = [384, 432]\nto = [384, 0]\n'
    stream += '[[stream.sink]]\nkind = "jsonl"\ntarget = "{folder}/{name}.jsonl"\n'
    streams = {
        "all": 'tracker = "bytetrack"',
        "cars": 'tracker = "sort"\nclasses = ["car"]',
        "sure": 'tracker = "bytetrack"\nmin_score = { person = 0.99 }',
    }
    parts = [stream.replace("{name}", name).replace("{more}", more) for name, more in streams.items()]
    config.write_text(f'model = "{yolox_nano_pth}"\n' + "".join(parts).replace("{folder}", str(tmp_path)))
    ended = edgedet_cli("stream", "--config", config, "--json")
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert [(one["name"], one["frames"], one["tracks"]) for one in summary["streams"]] == [
        ("all", 16, 1),
        ("cars", 16, 0),
        ("sure", 16, 0),
    ]
    assert summary["streams"][0]["lines"] == {"middle": {"left": {}, "right": {"person": 1}}}
    records = {name: [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()] for name in streams}
    crossings = [one for one in records["all"] if one.get("event") == "cross"]
    assert [(one["stream"], one["detail"]["class"], one["time_s"]) for one in crossings] == [("all", "person", 1.0)]
    assert {len(one["objects"]) for name in ("cars", "sure") for one in records[name]} == {0}


@pytest.mark.parametrize("source", ["test:160x120@20,frames=60", "{clip}"])
def test_a_camera_that_is_given_up_leaves_the_others_their_time_their_files_and_the_summary(
    edgedet_cli, yolox_nano_pth, write_clip, tmp_path, source
):
    config = tmp_path / "streams.toml"
    config.write_text(
        f'model = "{yolox_nano_pth}"\n[[stream]]\nname = "well"\nsource = "{source.format(clip=write_clip())}"\n'
        f'[[stream.sink]]\nkind = "jsonl"\ntarget = "{tmp_path}/well.jsonl"\n'
        '[[stream]]\nname = "dead"\nsource = "rtsp://127.0.0.1:9/1"\nmax_reconnects = 0\n'
    )
    ended = edgedet_cli("stream", "--config", config, "--json")
    assert ended.code == 2
    well, dead = json.loads(ended.out)["streams"]
    assert well["frames"] >= 2
    assert dead["reason"].endswith("gave up after 0 attempts to reconnect")
    assert ended.err.splitlines()[-1].startswith("edgedet: rtsp://127.0.0.1:9/1: 127.0.0.1 takes no connection")
    records = [json.loads(line) for line in (tmp_path / "well.jsonl").read_text().splitlines()]
    assert len([one for one in records if "frame" in one]) == well["frames"]


def test_a_camera_is_served_until_ctrl_c(yolox_nano_pth, tmp_path):
    arguments = ["test:160x120@20", "--model", str(yolox_nano_pth), "--serve", "0", "--jsonl", str(tmp_path / "out.jsonl")]
    process = subprocess.Popen(
        [sys.executable, "-m", "edgedet", "stream", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    said = process.stderr.readline()  # before the model is open
    assert said.startswith("live page: http://127.0.0.1:")
    url, end_s = said.split()[-1], time.monotonic() + 60
    assert get(url, "/healthz").status == 200
    (stream,) = get(url, "/streams").json["streams"]
    while stream["frames"] < 10 and time.monotonic() < end_s:
        time.sleep(0.1)
        (stream,) = get(url, "/streams").json["streams"]
    assert (stream["name"], stream["state"]) == ("test:160x120@20", "online")
    assert get(url, "/streams/test:160x120@20/snapshot.jpg").image.shape == (120, 160, 3)
    assert 'edgedet_up{stream="test:160x120@20"} 1.0' in get(url, "/metrics").text
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "test:160x120@20: " in out
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) >= 10


def test_a_damaged_clip_says_one_line_in_a_process_of_its_own(yolox_nano_pth, write_clip, tmp_path):
    clip = write_clip()
    clip.write_bytes(clip.read_bytes()[:2000])
    command = [sys.executable, "-m", "edgedet", "stream", str(clip), "--model", str(yolox_nano_pth)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "clip.mp4: not a video OpenCV can open (2000 bytes)" in done.stderr


def test_ctrl_c_keeps_what_was_written_and_sums_up(yolox_nano_pth, people_mp4, tmp_path):
    lines, video = tmp_path / "out.jsonl", tmp_path / "out.mp4"
    command = [sys.executable, "-m", "edgedet", "stream", str(people_mp4), "--model", str(yolox_nano_pth)]
    process = subprocess.Popen(
        [*command, "--jsonl", str(lines), "--save", str(video)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not any(path.stat().st_size for path in tmp_path.glob("out.part.mp4")):
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    written = len(lines.read_text().splitlines())
    assert 0 < written < 1394
    assert cv2.VideoCapture(str(video)).get(cv2.CAP_PROP_FRAME_COUNT) == written
    assert f"{people_mp4}: " in out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.mp4"]


def test_help_shows_an_example(edgedet_cli):
    assert "Example: edgedet stream" in edgedet_cli("stream", "--help").out.replace("\n", " ")
