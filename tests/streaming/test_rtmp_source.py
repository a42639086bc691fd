"""A camera over RTMP, against nginx with its RTMP module."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from edgedet.streaming.sources.base import Timeouts, open_source

MODULE = Path("/usr/lib/nginx/modules/ngx_rtmp_module.so")
CONFIG = """
load_module {module};
daemon off; pid {folder}/pid; error_log {folder}/log; worker_processes 1;
events {{ worker_connections 64; }}
rtmp {{ server {{ listen 127.0.0.1:{port}; application live {{ live on; }} }} }}
"""


@pytest.mark.slow
def test_an_rtmp_camera_is_read(people_mp4, tmp_path):
    if not MODULE.exists() or shutil.which("ffmpeg") is None:
        pytest.skip("no RTMP server: apt-get install nginx libnginx-mod-rtmp ffmpeg")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(CONFIG.format(module=MODULE, folder=tmp_path, port=port))
    address = f"rtmp://127.0.0.1:{port}/live/camera"
    publish = ["ffmpeg", "-loglevel", "error", "-re", "-stream_loop", "-1", "-i", str(people_mp4), "-c", "copy", "-f", "flv"]
    server = subprocess.Popen(["/usr/sbin/nginx", "-c", str(tmp_path / "nginx.conf")], stderr=subprocess.DEVNULL)
    time.sleep(1.0)
    publisher = subprocess.Popen([*publish, address], stdin=subprocess.DEVNULL)
    try:
        time.sleep(1.0)
        with open_source(address, Timeouts()) as source:
            frames = [frame for frame, _ in zip(source, range(20), strict=False)]
        assert frames[-1].image.shape == (432, 768, 3)
        assert frames[-1].time_s - frames[0].time_s < 3.0  # ten a second, the first few at once
    finally:
        for process in (publisher, server):
            process.terminate()
            process.wait()
