"""A process that ends while pictures are being worked on ends well."""

import subprocess
import sys

from tests.serving import ROOT

CODE = """
import threading
import cv2
import numpy as np
from pipeline.threads import start_thread

picture, is_stopped, has_begun = np.zeros((1500, 1500, 3), np.uint8), threading.Event(), threading.Event()

def work():
    while not is_stopped.is_set():
        has_begun.set()
        cv2.GaussianBlur(picture, (0, 0), 4)
    print("stopped")

{start}
has_begun.wait(20)
"""


def test_the_end_of_the_interpreter_waits_for_what_it_stops():
    code = CODE.format(start='start_thread(work, "work", is_stopped.set)')
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "stopped\n", "")
