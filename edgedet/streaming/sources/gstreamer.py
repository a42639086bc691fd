"""A GStreamer pipeline: `gst: … ! appsink`, a Jetson's CSI camera `csi:0`, or its hardware decoder `nvdec:rtsp://…`.

The templates are *not yet run on a Jetson*: they follow NVIDIA's Accelerated GStreamer guide. What their appsink drops
because it was not read at once (`drop=true`) is counted nowhere; edgedet reads at once and drops, and counts, by its
own policy.
"""

from __future__ import annotations

import re

import cv2

from edgedet.errors import SourceError
from edgedet.streaming.sources.base import Camera, Timeouts, open_capture, public_name

LIVE = True
_TO_BGR = "nvvidconv ! video/x-raw,format=BGRx ! videoconvert ! video/x-raw,format=BGR"
_SINK = "appsink drop=true max-buffers=1 sync=false"
CSI = (
    "nvarguscamerasrc sensor-id={sensor} ! video/x-raw(memory:NVMM),width={width},height={height},framerate={fps}/1,format=NV12"
    f" ! {_TO_BGR} ! {_SINK}"
)
NVDEC = 'rtspsrc location="{url}" protocols=tcp latency=100 ! {depay} ! {parse} ! nvv4l2decoder ! ' + f"{_TO_BGR} ! {_SINK}"
_CSI_ADDRESS = re.compile(r"csi:(\d)(?:@(\d{2,4})x(\d{2,4})(?:x(\d{1,3}))?)?")


def accepts(address: str) -> bool:
    """Whether the address is a pipeline or one of the templates."""
    if not address.startswith(("gst:", "csi:", "nvdec:")) and " ! " not in address:
        return False
    pipeline_of(address)
    if (problem := missing()) is not None:
        raise SourceError(f"{public_name(address)}: {problem}")
    return True


def open(address: str, timeouts: Timeouts) -> Camera:
    """The pipeline, running, its first frame taken."""
    name, pipeline = public_name(address), pipeline_of(address)
    capture = open_capture(pipeline, backend=cv2.CAP_GSTREAMER)
    return Camera(name, capture, no_frame=f"the pipeline gives no frame; try it with: gst-launch-1.0 {public_name(pipeline)}")


def pipeline_of(address: str) -> str:
    """The pipeline that an address stands for: csi:SENSOR[@WIDTHxHEIGHT[xFPS]], nvdec:[h265:]URL, gst:PIPELINE, or itself."""
    if address.startswith("csi:"):
        matched = _CSI_ADDRESS.fullmatch(address)
        if matched is None:
            raise SourceError(f"{address}: write a CSI camera as csi:0, or as csi:0@1280x720x30")
        return CSI.format(sensor=matched[1], width=matched[2] or 1280, height=matched[3] or 720, fps=matched[4] or 30)
    if address.startswith("nvdec:"):
        url = address.removeprefix("nvdec:").removeprefix("h265:")
        if not url.startswith(("rtsp://", "rtsps://")) or '"' in url:
            raise SourceError(f"{public_name(address)}: write a decoded camera as nvdec:rtsp://…, or nvdec:h265:rtsp://…")
        codec = "h265" if address.startswith("nvdec:h265:") else "h264"
        return NVDEC.format(url=url, depay=f"rtp{codec}depay", parse=f"{codec}parse")
    pipeline = address.removeprefix("gst:").strip()
    if "appsink" not in pipeline:
        raise SourceError(
            f"{public_name(address)}: a pipeline must end in an appsink that gives BGR, as in: … ! videoconvert ! appsink"
        )
    return pipeline


def missing() -> str | None:
    """Why this OpenCV runs no pipeline; None where it does."""
    lines = cv2.getBuildInformation().splitlines()
    if any("GStreamer:" in line and "YES" in line for line in lines):
        return None
    return "this OpenCV is built without GStreamer; use JetPack's own (python3-opencv) or build it with -D WITH_GSTREAMER=ON"
