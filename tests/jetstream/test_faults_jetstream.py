"""The campaign of faults, at the size that every change can wait for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parent / "server_faults.py"
FAULTS = ["kill_leader=1", "cut_off_leader=1", "wipe_one=1", "flip_bytes=1", "fill_a_disk=1"]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces need root, and `ip`")
def test_faults_under_writers_and_a_follower() -> None:
    done = subprocess.run([sys.executable, CAMPAIGN, *FAULTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["linearizable reads"] > figures["linearizable reads, old"] == 0
    assert figures["stored"] >= figures["acknowledged"] > 0
    assert {f"{name}=1" for name in figures} >= set(FAULTS)
