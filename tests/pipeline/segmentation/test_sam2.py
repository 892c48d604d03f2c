"""SAM 2.1 end to end with a tiny real network: equal to transformers, encoded once, streamed, bounded, both ways, several."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import Sam2VideoInferenceSession, Sam2VideoModel

from pipeline.cache import ArtifactCache
from pipeline.errors import UserError
from pipeline.media import FrameStore, probe_clip
from pipeline.model_cache import ModelCache
from pipeline.runtime import Runtime
from pipeline.segmentation import Segmentation, sam2
from pipeline.segmentation.preprocessing import encode_image, encode_prompt
from pipeline.segmentation.sam2 import Sam2Segmenter, build_segmenter, load_model
from pipeline.segmentation.tracks import MaskTracks
from pipeline.types import Click, Prompt

from ...tiny import make_clip
from .tiny_sam2 import SIZE, make_sam2, save_sam2

NUM_FRAMES = 20
TOLERANCE = 1e-4
CPU = torch.device("cpu")

CLICK = Prompt((Click(40.0, 30.0),))
TWO_CLICKS = Prompt((Click(20.0, 20.0), Click(70.5, 40.25, False)))
BOX = Prompt((Click(50.0, 40.0),), (30.0, 10.0, 80.0, 60.0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_sam2(tmp_path_factory.mktemp("weights") / "sam2.1-hiera-tiny")


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrameStore]:
    store = FrameStore(probe_clip(make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", num_frames=NUM_FRAMES)))
    yield store
    store.close()


@pytest.fixture
def segmenter(weights: Path) -> Sam2Segmenter:
    return build_segmenter(weights, "cpu")


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for every picture that the encoder sees from now on."""
    calls: list[int] = []
    encode = Sam2VideoModel.get_image_features

    def count(self: Sam2VideoModel, pixel_values: torch.Tensor, *args: object, **kwargs: object) -> object:
        calls.append(len(pixel_values))
        return encode(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(Sam2VideoModel, "get_image_features", count)
    return calls


def follow(segmenter: Sam2Segmenter, frames: FrameStore, prompts: dict[int, Prompt], order: range) -> dict[int, Segmentation]:
    return {index: found for index, (found,) in segmenter.propagate(frames, [prompts], order)}


def ask_transformers(
    weights: Path,
    frames: FrameStore,
    prompts: dict[int, Prompt],
    start: int,
    reverse: bool = False,
    spoil: Callable[[dict], None] | None = None,
) -> dict[int, np.ndarray]:
    """Mask logits by frame, from transformers' own session with the whole clip in it. ``spoil`` gets every remembered output."""
    model = load_model(weights, SIZE, CPU)
    video = torch.cat([encode_image(frames.frame(index).image, SIZE, CPU) for index in range(NUM_FRAMES)])
    session = Sam2VideoInferenceSession(video=video, dtype=torch.float32)
    session.obj_id_to_idx(0)
    for index, prompt in prompts.items():
        points, labels = encode_prompt(prompt, frames.clip.hw, SIZE)
        session.add_point_inputs(0, index, {"point_coords": points, "point_labels": labels})
        session.obj_with_new_inputs = [0]
        model(session, frame_idx=index)
    found = {}
    for output in model.propagate_in_video_iterator(session, start_frame_idx=start, reverse=reverse):
        logits = F.interpolate(output.pred_masks, size=frames.clip.hw, mode="bilinear", align_corners=False)
        found[output.frame_idx] = logits[0, 0].numpy()
        for outputs in session.output_dict_per_obj[0].values():
            if spoil is not None and output.frame_idx in outputs:
                spoil(outputs[output.frame_idx])
    return found


# -- the same as transformers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", [CLICK, TWO_CLICKS, BOX], ids=["click", "clicks", "box"])
def test_an_image_prompt_gives_what_transformers_gives(weights, frames, segmenter, prompt):
    found = segmenter.segment(frames, 3, prompt)
    assert found.logits.shape == frames.clip.hw and found.logits.dtype == np.float32
    assert 0.02 < found.mask.mean() < 0.98 and np.isfinite(found.logits).all()
    model = load_model(weights, SIZE, CPU)
    points, labels = encode_prompt(prompt, frames.clip.hw, SIZE)
    with torch.inference_mode():
        direct = model._single_frame_forward(
            pixel_values=encode_image(frames.frame(3).image, SIZE, CPU),
            input_points=points,
            input_labels=labels,
            multimask_output=points.shape[2] == 1,
        )
    expected = F.interpolate(direct.pred_masks, size=frames.clip.hw, mode="bilinear", align_corners=False)[0, 0].numpy()
    np.testing.assert_allclose(found.logits, expected, atol=TOLERANCE)
    confidence = torch.sigmoid(direct.object_score_logits).item() * direct.iou_scores.max().clamp(0, 1).item()
    assert found.confidence == pytest.approx(confidence, abs=1e-5)


@pytest.mark.parametrize(
    ("prompts", "start", "reverse"),
    [({2: CLICK}, 2, False), ({17: CLICK}, 17, True), ({2: CLICK, 18: BOX}, 2, False), ({1: TWO_CLICKS, 16: CLICK}, 16, True)],
    ids=["forward", "backward", "two prompts forward", "two prompts backward"],
)
def test_a_propagation_gives_what_transformers_gives(weights, frames, segmenter, prompts, start, reverse):
    expected = ask_transformers(weights, frames, prompts, start, reverse)
    order = range(start, -1, -1) if reverse else range(start, NUM_FRAMES)
    found = follow(segmenter, frames, prompts, order)
    assert list(found) == list(order) == list(expected)
    for index in order:
        np.testing.assert_allclose(found[index].logits, expected[index], atol=TOLERANCE, err_msg=f"frame {index}")


def test_the_masks_vary_and_memory_matters(weights, frames, segmenter):
    """Else the tests above would pass with constant masks, or with a memory that nothing reads."""

    def shuffle(output: dict) -> None:
        output["maskmem_features"] = output["maskmem_features"].roll(5, 0)

    expected = ask_transformers(weights, frames, {2: CLICK}, 2, spoil=shuffle)
    found = follow(segmenter, frames, {2: CLICK}, range(2, NUM_FRAMES))
    changes = [np.abs(found[index].logits - expected[index]).max() for index in range(3, NUM_FRAMES)]
    assert min(changes) > 0 and max(changes) > 100 * TOLERANCE
    masks = [found[index].mask for index in range(2, NUM_FRAMES)]
    assert all((a != b).any() for a, b in itertools.pairwise(masks))
    alone = [segmenter.segment(frames, index, CLICK).logits for index in range(3, NUM_FRAMES)]
    assert all(np.abs(found[index].logits - alone[index - 3]).max() > 100 * TOLERANCE for index in range(3, NUM_FRAMES))


def test_a_prompted_frame_shows_the_same_when_it_is_clicked_and_when_it_is_tracked(frames, segmenter):
    found = follow(segmenter, frames, {4: CLICK, 9: BOX}, range(4, 12))
    np.testing.assert_array_equal(found[4].logits, segmenter.segment(frames, 4, CLICK).logits)
    np.testing.assert_array_equal(found[9].logits, segmenter.segment(frames, 9, BOX).logits)
    alone = follow(segmenter, frames, {4: CLICK}, range(4, 12))
    assert np.abs(alone[8].logits - found[8].logits).max() > 100 * TOLERANCE, "the prompt ahead counts already"


def test_where_the_order_starts_and_ends_changes_nothing(frames, segmenter):
    whole = follow(segmenter, frames, {2: CLICK}, range(2, 15))
    piece = follow(segmenter, frames, {2: CLICK}, range(9, 12))
    assert list(piece) == [9, 10, 11]
    for index, found in piece.items():
        np.testing.assert_array_equal(found.logits, whole[index].logits)


def test_several_things_get_what_each_would_get_alone(frames, segmenter, encoded):
    things = [{2: CLICK}, {5: BOX}, {2: TWO_CLICKS, 8: CLICK}]
    together = list(segmenter.propagate(frames, things, range(2, 12)))
    assert [index for index, _ in together] == list(range(2, 12))
    assert len(encoded) == 10, "one encoding for each frame, whatever the number of things"
    for number, prompts in enumerate(things):
        alone = follow(segmenter, frames, prompts, range(min(prompts), 12))
        for index, found in together[min(prompts) - 2 :]:
            np.testing.assert_allclose(found[number].logits, alone[index].logits, atol=TOLERANCE)


# -- encoded once -----------------------------------------------------------------------------------------------------------------


def test_a_second_click_runs_the_mask_decoder_alone(frames, segmenter, encoded):
    segmenter.prepare(frames, 6)
    assert encoded == [1]
    first = segmenter.segment(frames, 6, CLICK)
    second = segmenter.segment(frames, 6, TWO_CLICKS)
    assert encoded == [1] and np.abs(first.logits - second.logits).max() > 100 * TOLERANCE
    segmenter.segment(frames, 7, CLICK)
    assert encoded == [1, 1]


def test_embeddings_belong_to_the_content_not_to_the_file(frames, segmenter, encoded, tmp_path):
    segmenter.segment(frames, 6, CLICK)
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(frames.clip.path.read_bytes())
    segmenter.segment(FrameStore(probe_clip(copy)), 6, CLICK)
    assert len(encoded) == 1


def test_a_correction_encodes_no_frame_again(frames, segmenter, encoded):
    follow(segmenter, frames, {2: CLICK}, range(2, 12))
    assert len(encoded) == 10
    follow(segmenter, frames, {2: CLICK, 8: BOX}, range(8, 1, -1))
    assert len(encoded) == 10


# -- bounded and stoppable --------------------------------------------------------------------------------------------------------


def live_tensor_bytes() -> int:
    gc.collect()
    storages = {}
    for each in gc.get_objects():
        if type(each) is torch.Tensor:
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def test_memory_does_not_grow_with_the_clip(weights, tmp_path):
    """Bytes of all tensors alive after 20 and after 44 frames; transformers' own session is shown to grow."""
    long = FrameStore(probe_clip(make_clip(tmp_path / "long.mp4", num_frames=48)))
    one_frame = 4 * SIZE * SIZE * 3
    segmenter = Sam2Segmenter(weights, Runtime("cpu", "float32"), ModelCache(1 << 40), max_embedding_bytes=512 << 10)
    marks = {}
    for index, _ in segmenter.propagate(long, [{0: CLICK}, {0: BOX}], range(48)):
        if index in (20, 44):
            marks[index] = live_tensor_bytes()
    assert abs(marks[44] - marks[20]) < one_frame
    assert segmenter._embeddings.num_bytes <= 512 << 10

    model = make_sam2()
    session = Sam2VideoInferenceSession(dtype=torch.float32)
    session.obj_id_to_idx(0)
    points, labels = encode_prompt(CLICK, long.clip.hw, SIZE)
    session.add_point_inputs(0, 0, {"point_coords": points, "point_labels": labels})
    session.obj_with_new_inputs = [0]
    before = 0
    for index in range(13):
        model(session, frame=encode_image(long.frame(index).image, SIZE, CPU), frame_idx=index)
        before = before or live_tensor_bytes()
    assert live_tensor_bytes() - before > 12 * one_frame


def test_closing_stops_at_the_next_frame_and_frees_the_network(frames, segmenter, encoded):
    following = segmenter.propagate(frames, [{2: CLICK}], range(2, NUM_FRAMES))
    next(following), next(following), next(following)
    following.close()
    assert len(encoded) == 3
    assert segmenter.segment(frames, 2, CLICK).mask.any()


def test_clicks_are_answered_while_a_propagation_waits(frames, segmenter):
    following = segmenter.propagate(frames, [{2: CLICK}], range(2, NUM_FRAMES))
    next(following), next(following)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(segmenter.segment(frames, 9, CLICK)))
    thread.start()
    thread.join(20)
    assert answers, "the network is free between two frames"
    expected = follow(segmenter, frames, {2: CLICK}, range(2, NUM_FRAMES))
    for index, (found,) in following:
        np.testing.assert_allclose(found.logits, expected[index].logits, atol=TOLERANCE)


def test_many_threads_get_what_one_gets(frames, segmenter):
    prompts = [CLICK, TWO_CLICKS, BOX, Prompt((Click(5, 5),))]
    expected = [segmenter.segment(frames, number, prompt).logits for number, prompt in enumerate(prompts)]
    answers: dict[int, np.ndarray] = {}

    def ask(number: int) -> None:
        found = follow(segmenter, frames, {number: prompts[number]}, range(number, number + 4))
        answers[number] = found[number].logits

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, logits in enumerate(expected):
        np.testing.assert_allclose(answers[number], logits, atol=TOLERANCE)


# -- what can go wrong ------------------------------------------------------------------------------------------------------------


def test_running_out_of_memory_while_tracking_is_one_sentence_and_loses_nothing(weights, frames, tmp_path, monkeypatch):
    models = ModelCache(1 << 40)
    segmenter = Sam2Segmenter(weights, Runtime("cpu", "float32"), models)
    tracks = MaskTracks(segmenter, ArtifactCache(tmp_path / "cache"))
    run = Sam2VideoModel._prepare_memory_conditioned_features
    done = []

    def fail(self, *args, **kwargs):
        done.append(kwargs["frame_idx"])
        if kwargs["frame_idx"] == 7:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return run(self, *args, **kwargs)

    monkeypatch.setattr(Sam2VideoModel, "_prepare_memory_conditioned_features", fail)
    made = {}
    with pytest.raises(UserError, match=r"not enough memory.*smaller"):
        made.update(tracks.track(frames, {2: CLICK}, 0, NUM_FRAMES))
    assert models.keys() == () and len(segmenter._embeddings) == 0, "the caches are left clean"
    assert sorted(tracks.known(frames.clip, {2: CLICK}, 0, NUM_FRAMES)) == [2, 3, 4, 5, 6]

    monkeypatch.setattr(Sam2VideoModel, "_prepare_memory_conditioned_features", run)
    assert len(dict(tracks.track(frames, {2: CLICK}, 0, NUM_FRAMES))) == NUM_FRAMES


def test_other_faults_are_not_taken_for_memory(frames, segmenter, monkeypatch):
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(Sam2VideoModel, "forward", fail)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        segmenter.segment(frames, 2, CLICK)


def test_a_thing_out_of_sight_is_an_empty_mask_and_sure_of_it(frames, tmp_path):
    model = make_sam2()
    with torch.no_grad():
        model.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(-12.0)
    model.save_pretrained(str(tmp_path / "weights"))
    found = build_segmenter(tmp_path / "weights", "cpu").segment(frames, 2, CLICK)
    assert not found.mask.any() and np.isfinite(found.logits).all() and found.confidence > 0.99


@pytest.mark.parametrize("frame_index", [-1, NUM_FRAMES])
def test_a_frame_that_is_not_there_is_refused(frames, segmenter, frame_index):
    for ask in (
        lambda: segmenter.segment(frames, frame_index, CLICK),
        lambda: segmenter.propagate(frames, [{frame_index: CLICK}], range(3)),
    ):
        with pytest.raises(UserError, match=f"clip.mp4 has frames 0 to {NUM_FRAMES - 1}"):
            ask()


def test_a_prompt_without_a_click_on_the_thing_is_refused(frames, segmenter):
    with pytest.raises(ValueError, match="at least one click"):
        Prompt((Click(3, 3, False),))
    with pytest.raises(UserError, match="click on the thing"):
        segmenter.propagate(frames, [{}], range(3))


# -- weights ----------------------------------------------------------------------------------------------------------------------


def test_the_input_size_is_a_setting(weights, frames, segmenter):
    large = build_segmenter(weights, "cpu", 2 * SIZE)
    assert (segmenter.input_size, large.input_size) == (SIZE, 2 * SIZE) and large.key != segmenter.key
    found = follow(large, frames, {2: CLICK}, range(2, 5))
    assert all(each.logits.shape == frames.clip.hw for each in found.values())
    segmenter.segment(frames, 2, CLICK)
    per_frame = [each._embeddings.num_bytes / len(each._embeddings) for each in (segmenter, large)]
    assert per_frame[1] == 4 * per_frame[0], "twice the side, four times the features"
    with pytest.raises(UserError, match="steps of 32"):
        build_segmenter(weights, "cpu", 100)


def test_the_key_names_weights_size_and_precision(weights, segmenter, tmp_path):
    assert build_segmenter(weights, "cpu").key == segmenter.key
    other = build_segmenter(save_sam2(tmp_path / "other", seed=3), "cpu")
    rough = Sam2Segmenter(weights, Runtime("cpu", "bfloat16"), ModelCache(1 << 40))
    assert len({segmenter.key, other.key, rough.key}) == 3


def test_half_precision_runs_and_stays_near(weights, frames, segmenter):
    rough = Sam2Segmenter(weights, Runtime("cpu", "bfloat16"), ModelCache(1 << 40))
    exact = follow(segmenter, frames, {2: CLICK}, range(2, 8))
    for index, found in follow(rough, frames, {2: CLICK}, range(2, 8)).items():
        assert (found.mask != exact[index].mask).mean() < 0.05
        assert found.logits.dtype == np.float32


def test_weights_that_do_not_fit_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_sam2(tmp_path / "lame")
    whole = load_file(folder / "model.safetensors")
    lacking = {name: tensor for name, tensor in whole.items() if "iou_token" not in name and name != "no_memory_embedding"}
    save_file(lacking, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"'lame' cannot be used: mask_decoder\.iou_token\.weight and 1 more tensors are missing"):
        load_model(folder, SIZE, CPU)
    save_file({**whole, "no_memory_embedding": torch.zeros(1, 1, 7)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="'lame' cannot be used: they cannot be read, or are not of this model"):
        load_model(folder, SIZE, CPU)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="'lame' cannot be used"):
        load_model(folder, SIZE, CPU)


def test_one_of_the_two_names_of_the_shared_matrix_is_enough(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save_sam2(tmp_path / "shared")
    tensors = load_file(folder / "model.safetensors")
    expected = tensors[sam2.SAME_MATRIX[1]].clone()
    tensors.pop(sam2.SAME_MATRIX[0])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    model = load_model(folder, SIZE, CPU)
    torch.testing.assert_close(model.get_buffer(sam2.SAME_MATRIX[0]), expected)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    folder = save_sam2(tmp_path / "bare")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"'bare' holds no SAM 2\.1 weights"):
        build_segmenter(folder, "cpu")
