"""Images sent to the canvas over plain HTTP."""

import io

import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.testclient import TestClient

from editor.canvas import pictures
from editor.canvas.pictures import PictureDesk, safe_image_name
from pipeline.errors import UserError


class Host:
    def __init__(self):
        self.taken = []

    def read(self, token):
        if token != "good":
            raise UserError("Who are you?")

    def take_image(self, token, source, layer, reference, role):
        if role == "mask":
            raise UserError("It does not fit.")
        if layer == 31:
            raise RuntimeError("secret path /srv/x")
        self.taken.append((token, source.name, source.read_bytes(), layer, reference, role))


@pytest.fixture
def served():
    host = Host()
    desk = PictureDesk(host)
    with TestClient(Starlette(routes=[desk.route()])) as client:
        yield host, client
    desk.close()


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), 7, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


HEADERS = {"X-Visitor": "good", "X-Layer": "2", "X-Reference": "1", "X-Role": "add", "X-Name": "my%20cup.png"}


def test_a_picture_arrives_under_its_name_with_what_it_is_for(served):
    host, client = served
    answer = client.post("/picture", content=png(), headers=HEADERS)
    assert answer.status_code == 200 and answer.json() == {"fault": None}
    assert host.taken == [("good", "my cup.png", png(), 2, 1, "add")]


@pytest.mark.parametrize(
    "change",
    [
        {"X-Visitor": "other"}, {"X-Visitor": ""}, {"X-Layer": "-1"}, {"X-Layer": "32"}, {"X-Layer": "1e1"}, {"X-Reference": "16"},
        {"X-Role": "delete"}, {"X-Role": ""}, {"X-Name": "a" * 601},
    ],
)  # fmt: skip
def test_lies_in_the_headers_are_refused_before_the_body_is_read(served, change):
    host, client = served
    answer = client.post("/picture", content=png(), headers={**HEADERS, **change})
    assert answer.status_code == 400 and answer.json()["fault"].endswith((".", "?")) and host.taken == []


def test_what_is_too_large_is_refused(served, monkeypatch):
    host, client = served
    monkeypatch.setattr(pictures, "MAX_IMAGE_BYTES", 1 << 20)
    answer = client.post("/picture", content=b"x" * ((1 << 20) + 1), headers=HEADERS)
    assert answer.status_code == 413 and "at most 1 MiB" in answer.json()["fault"] and host.taken == []


def test_faults_are_told_and_nothing_else_leaks(served):
    _, client = served
    assert client.post("/picture", content=png(), headers={**HEADERS, "X-Role": "mask"}).json() == {"fault": "It does not fit."}
    answer = client.post("/picture", content=png(), headers={**HEADERS, "X-Layer": "31"})
    assert answer.json() == {"fault": pictures.NEUTRAL}


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "", "a/b\\c", "\0.png", ".png", "x.p" + "n" * 20, "C:\\x\\cup.png"])
def test_any_name_becomes_a_plain_one(name):
    made = safe_image_name(name)
    assert made and not made.startswith(".") and not set(made) & set("/\\\0:") and len(made) < 80 and "." in made
