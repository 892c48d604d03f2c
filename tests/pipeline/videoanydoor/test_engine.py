"""The cached engine on a real small clip with tiny real networks."""

from __future__ import annotations

import gc
import os
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch
from diffusers import AutoencoderKL, ModelMixin
from torch._dynamo.utils import counters
from transformers import Dinov2Model

from pipeline import cli, masks, videoanydoor
from pipeline.cache import ArtifactCache
from pipeline.errors import Cancelled, UserError
from pipeline.media import probe_clip, read_frames
from pipeline.model_cache import ModelCache
from pipeline.motion import BoxKey, TrajectoryKeys, build_box_sequence, build_trajectory_set
from pipeline.render import render
from pipeline.runtime import Runtime
from pipeline.types import BlendSettings, InsertionRequest, Layer, MaskTrack, Reference, SamplingConfig
from pipeline.videoanydoor.engine import VideoAnydoorEngine, _model_key
from pipeline.videoanydoor.pipeline import VideoAnydoorPipeline
from pipeline.videoanydoor.plan import Plan, choose_plan, read_facts
from tests.tiny import make_clip
from tests.tiny_models import make_pipeline, randomize_zeros

HW = (64, 96)
NUM_FRAMES = 6
SAMPLING = SamplingConfig(name="videoanydoor", num_inference_steps=2, window=4)
ANCHORS = {"a": (10.0, 8.0), "b": (30.0, 20.0)}


@pytest.fixture(autouse=True)
def few_threads():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, content in (("paper", "reference"), ("warped", "warped")):
        pipe = make_pipeline(content=content)
        randomize_zeros(pipe.controlnet, pipe.pixel_warper)
        pipe.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return probe_clip(make_clip(tmp_path_factory.mktemp("clip") / "street.mp4", num_frames=NUM_FRAMES, hw=HW))


@pytest.fixture
def calls(monkeypatch):
    """How often networks were loaded, the VAE encoded and DINOv2 looked."""
    counts = {"loads": 0, "encodes": 0, "looks": 0, "steps": 0}

    def count(owner, name, what):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            counts[what] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    load = VideoAnydoorPipeline.from_pretrained.__func__
    monkeypatch.setattr(
        VideoAnydoorPipeline,
        "from_pretrained",
        classmethod(lambda cls, *args: counts.__setitem__("loads", counts["loads"] + 1) or load(cls, *args)),
    )
    count(AutoencoderKL, "encode", "encodes")
    count(Dinov2Model, "forward", "looks")
    count(VideoAnydoorPipeline, "_predict", "steps")
    return counts


def make_engine(checkpoints, tmp_path, **more):
    return VideoAnydoorEngine(
        checkpoints, Runtime("cpu", "float32"), ModelCache(1 << 30), ArtifactCache(tmp_path / "artifacts"), **more
    )


def make_reference(color=(220, 30, 60)):
    image, alpha = np.zeros((28, 40, 3), np.uint8), np.zeros((28, 40), np.float32)
    image[:] = color
    alpha[4:24, 5:35] = 1
    return Reference(image=image, alpha=alpha, points_px=ANCHORS)


def make_layer(name="cup", box=(0.3, 0.3, 0.5, 0.6), trajectories=True, color=(220, 30, 60), **more):
    keys = [TrajectoryKeys("a", {0: (0.35, 0.35), 5: (0.45, 0.4)}), TrajectoryKeys("b", {0: (0.45, 0.5), 5: (0.55, 0.5)})]
    return Layer(
        name=name,
        kind="insert",
        references=(make_reference(color),),
        boxes=build_box_sequence({0: BoxKey(box)}, HW, NUM_FRAMES) if box else None,
        trajectories=build_trajectory_set(keys, ANCHORS, HW, NUM_FRAMES) if trajectories else None,
        **more,
    )


def make_request(clip, *layers, frame_range=(0, NUM_FRAMES), **sampling):
    defaults = {"checkpoint": "paper"}
    return InsertionRequest(clip, frame_range, layers or (make_layer(),), replace(SAMPLING, **defaults | sampling))


def ignore(_):
    pass


def run(engine, request, report=ignore, warn=ignore):
    return list(engine.run(request, report, warn))


def images(frames):
    return np.stack([frame.image for frame in frames])


@pytest.mark.parametrize("checkpoint", ["paper", "warped"])
def test_frames_follow_the_contract_and_the_source_is_exact_outside(checkpoint, checkpoints, clip, tmp_path):
    frames = run(make_engine(checkpoints, tmp_path), make_request(clip, frame_range=(1, 5), checkpoint=checkpoint))
    sources = list(read_frames(clip, 1, 5))
    assert [frame.frame_index for frame in frames] == [1, 2, 3, 4]
    for frame, source in zip(frames, sources, strict=True):
        assert frame.image.shape == (*HW, 3) and frame.layer.shape == (*HW, 4)
        assert frame.touched.any() and not frame.touched.all()
        assert (frame.image[~frame.touched] == source.image[~frame.touched]).all(), "bit for bit outside"
        assert (frame.image[frame.touched] != source.image[frame.touched]).mean() > 0.5
        alpha = frame.layer[..., 3:].astype(int)
        over = (source.image * (255 - alpha) + frame.layer[..., :3].astype(int) * alpha + 127) // 255
        assert (over == frame.image).all(), "the layer over the source gives the image"
        assert (frame.touched == (frame.layer[..., 3] > 0)).all()


def test_nothing_changes_far_from_the_object(checkpoints, clip, tmp_path):
    frames = run(make_engine(checkpoints, tmp_path), make_request(clip, make_layer(box=(0.1, 0.1, 0.2, 0.25), trajectories=False)))
    touched = np.stack([frame.touched for frame in frames])
    assert touched[:, :20, :22].any() and not touched[:, 44:].any() and not touched[:, :, 60:].any()


def test_a_new_seed_encodes_nothing_and_an_unchanged_request_samples_nothing(checkpoints, clip, tmp_path, calls):
    engine = make_engine(checkpoints, tmp_path)
    first = images(run(engine, make_request(clip)))
    assert calls["loads"] == 1 and calls["encodes"] == 1 and calls["looks"] == 2
    seen = dict(calls)
    other = images(run(engine, make_request(clip, seed=5)))
    assert {name: calls[name] - seen[name] for name in ("loads", "encodes", "looks")} == {"loads": 0, "encodes": 0, "looks": 0}
    assert calls["steps"] == 2 * seen["steps"] and (first != other).any()
    seen = dict(calls)
    assert (images(run(engine, make_request(clip))) == first).all() and calls == seen
    again = make_engine(checkpoints, tmp_path)
    assert (images(run(again, make_request(clip))) == first).all() and calls == seen, "kept on disk: not even a load"
    fresh = make_engine(checkpoints, tmp_path / "elsewhere")
    assert (images(run(fresh, make_request(clip))) == first).all(), "cached and computed results are the same bytes"
    assert (images(run(fresh, make_request(clip, seed=5))) == other).all()


def test_without_paste_back_the_whole_window_shows_and_nothing_is_sampled_again(checkpoints, clip, tmp_path, calls):
    engine, request = make_engine(checkpoints, tmp_path), make_request(clip)
    pasted = run(engine, request)
    seen = dict(calls)
    whole = run(engine.without_paste_back(), request)
    assert calls == seen
    for one, other in zip(pasted, whole, strict=True):
        inside = other.touched
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        assert inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all() and one.touched[inside].mean() < 0.9
        assert not one.touched[~inside].any() and (other.image[~inside] == one.image[~inside]).all()
        solid = one.layer[..., 3] == 255
        assert solid.any() and (other.image[solid] == one.image[solid]).all(), "the same pixels, where one is pasted in full"
    assert (images(run(engine, request)) == images(pasted)).all(), "the engine itself still pastes back"


def test_only_what_changed_is_encoded_anew(checkpoints, clip, tmp_path, calls):
    engine = make_engine(checkpoints, tmp_path)
    run(engine, make_request(clip, make_layer(trajectories=False)))
    seen = dict(calls)
    run(engine, make_request(clip, make_layer(trajectories=False, color=(10, 200, 40))))
    assert (calls["encodes"] - seen["encodes"], calls["looks"] - seen["looks"], calls["loads"]) == (0, 2, 1), "another reference"
    seen = dict(calls)
    run(engine, make_request(clip, make_layer(box=(0.2, 0.3, 0.5, 0.6), trajectories=False)))
    assert (calls["encodes"] - seen["encodes"], calls["looks"] - seen["looks"]) == (1, 0), "another box"


@pytest.mark.parametrize(
    "change",
    [
        {"num_inference_steps": 3},
        {"guidance_scale": 9.0},
        {"motion_strength": 0.2},
        {"identity_strength": 0.3},
        {"init": "source"},
        {"init": "inversion"},
        {"size": 40},
        {"window": 6},
        {"checkpoint": "warped"},
    ],
    ids=lambda change: "-".join(f"{name}-{value}" for name, value in change.items()),
)
def test_every_setting_reaches_the_result(change, checkpoints, clip, tmp_path, shared_plain):
    changed = images(run(make_engine(checkpoints, tmp_path), make_request(clip, **change)))
    assert (changed != shared_plain).any()


@pytest.fixture(scope="module")
def shared_plain(checkpoints, clip, tmp_path_factory):
    torch.set_num_threads(1)
    return images(run(make_engine(checkpoints, tmp_path_factory.mktemp("plain")), make_request(clip)))


# -- layers -----------------------------------------------------------------------------------------------------------------------


def test_layers_run_in_order_each_on_the_result_of_the_one_before(checkpoints, clip, tmp_path, calls):
    engine = make_engine(checkpoints, tmp_path)
    one, two = (
        make_layer("one", trajectories=False),
        make_layer("two", (0.45, 0.35, 0.65, 0.7), trajectories=False, color=(20, 30, 240)),
    )
    both = run(engine, make_request(clip, one, two))
    seen = dict(calls)
    turned = run(engine, make_request(clip, two, one))
    assert (images(both) != images(turned)).any() and calls["encodes"] > seen["encodes"]
    alone = run(engine, make_request(clip, one))
    seen = dict(calls)
    again = run(engine, make_request(clip, one, replace(two, name="renamed")))
    assert calls == seen and (images(again) == images(both)).all(), "the first layer and the second were kept"
    only_first = both[0].touched & ~run(engine, make_request(clip, two))[0].touched
    assert only_first.any()
    far = only_first & (both[0].layer[..., 3] == alone[0].layer[..., 3])
    assert (both[0].image[far] == alone[0].image[far]).all()
    for frame, source in zip(both, read_frames(clip), strict=True):
        assert (frame.image[~frame.touched] == source.image[~frame.touched]).all()


def test_box_only_trajectory_only_and_both_differ(checkpoints, clip, tmp_path):
    engine = make_engine(checkpoints, tmp_path)
    layers = (make_layer(trajectories=False), make_layer(box=None), make_layer())
    made = [images(run(engine, make_request(clip, layer))) for layer in layers]
    assert (made[0] != made[1]).any() and (made[1] != made[2]).any() and (made[0] != made[2]).any()


def test_a_swap_in_place_covers_the_old_object(checkpoints, clip, tmp_path):
    mask = np.zeros(HW, bool)
    mask[20:44, 30:60] = True
    target = MaskTrack(HW, (masks.encode_rle(mask),) * NUM_FRAMES)
    swap = Layer("swap", "replace", references=(make_reference(),), target=target)
    frames = run(make_engine(checkpoints, tmp_path), make_request(clip, swap))
    assert all(frame.touched[mask].all() for frame in frames)
    removed = run(make_engine(checkpoints, tmp_path), make_request(clip, Layer("gone", "remove", target=target)))
    assert all(frame.touched[mask].all() for frame in removed) and (images(removed) != images(frames)).any()


def test_holdouts_and_opacity_hold_back_the_paste(checkpoints, clip, tmp_path, calls):
    engine = make_engine(checkpoints, tmp_path)
    front = np.zeros(HW, bool)
    front[:, :45] = True
    held = make_layer(holdouts=(MaskTrack(HW, (masks.encode_rle(front),) * NUM_FRAMES),))
    plain = run(engine, make_request(clip))
    for frame, free in zip(run(engine, make_request(clip, held)), plain, strict=True):
        assert free.touched[:, :45].any() and not frame.touched[:, :45].any() and frame.touched[:, 45:].any()
    seen = dict(calls)
    nothing = run(engine, make_request(clip, make_layer(blend=BlendSettings(opacity=0.0))))
    assert not any(frame.touched.any() for frame in nothing) and calls == seen
    half = run(engine, make_request(clip, make_layer(blend=BlendSettings(opacity=0.5))))
    assert max(frame.layer[..., 3].max() for frame in half) == 128


def test_an_object_that_is_never_there_leaves_the_clip_alone(checkpoints, clip, tmp_path):
    told = []
    keys = {4: BoxKey((0.3, 0.3, 0.5, 0.6), enter=True)}
    layer = replace(make_layer(trajectories=False), boxes=build_box_sequence(keys, HW, NUM_FRAMES))
    frames = run(make_engine(checkpoints, tmp_path), make_request(clip, layer, frame_range=(0, 3)), warn=told.append)
    assert not any(frame.touched.any() for frame in frames) and "in no frame" in told[0]


def test_a_render_writes_a_file_and_keeps_every_untouched_sample(checkpoints, clip, tmp_path, shared_plain):
    engine = videoanydoor.build_engine("cpu", checkpoints, ArtifactCache(tmp_path / "artifacts"))
    output = tmp_path / "out.mkv"
    stages = {progress.stage for progress in render(make_request(clip), engine, output, lossless=True)}
    assert stages
    expected = run(engine, make_request(clip))
    for made, frame, source in zip(read_frames(probe_clip(output)), expected, read_frames(clip), strict=True):
        free = ~frame.touched
        assert (made.planes[0][free] == source.planes[0][free]).all()
        assert np.abs(made.image[frame.touched].astype(int) - frame.image[frame.touched]).mean() < 12
    assert (images(expected) == shared_plain).all()


def test_compiled_networks_make_the_same_pictures(checkpoints, clip, tmp_path, monkeypatch):
    asked, original = [], ModelMixin.compile_repeated_blocks
    short = {"frame_range": (0, 3), "num_inference_steps": 1}
    torch._dynamo.reset()
    counters.clear()

    def compile_blocks(network, **how):
        asked.append((type(network).__name__, how["backend"], how["recompile_limit"]))
        original(network, **how)

    monkeypatch.setattr(ModelMixin, "compile_repeated_blocks", compile_blocks)
    plain = make_engine(checkpoints, tmp_path / "plain")
    compiled = make_engine(checkpoints, tmp_path / "compiled", compile_backend="eager")
    expected = images(run(plain, make_request(clip, **short)))
    assert not asked and not counters["frames"]
    assert (images(run(compiled, make_request(clip, **short))) == expected).all()
    assert asked == [("VideoUNet", "eager", 128), ("ControlNet", "eager", 128)]
    made = counters["frames"]["ok"]
    assert made > 9 and counters["frames"]["total"] == made, "every kind of block was compiled"
    again = images(run(compiled, make_request(clip, seed=2, **short)))
    assert len(asked) == 2 and counters["frames"]["ok"] == made, "nothing is compiled twice"
    assert (again == images(run(plain, make_request(clip, seed=2, **short)))).all()
    assert plain._key(checkpoints / "paper") != compiled._key(checkpoints / "paper"), "neither finds what the other kept"


@pytest.mark.parametrize("placement", ["resident", "sequential_offload"])
def test_what_can_and_cannot_be_compiled(checkpoints, tmp_path, monkeypatch, placement):
    monkeypatch.setattr(VideoAnydoorPipeline, "enable_sequential_cpu_offload", lambda *_, **__: None)
    engine = make_engine(checkpoints, tmp_path, compile_backend="eager")
    pipe = engine._load(checkpoints / "paper", placement, False)
    compiled = {
        type(module).__name__
        for network in (pipe.unet, pipe.controlnet)
        for module in network.modules()
        if module._compiled_call_impl is not None
    }
    assert compiled == ({"BasicTransformerBlock", "ResnetBlock2D"} if placement == "resident" else set())


def test_the_command_line_and_the_page_compile_when_asked_to(tmp_path):
    for is_compiled, backend in ((False, None), (True, "inductor")):
        made = [
            cli.build_videoanydoor("cpu", tmp_path, is_compiled),
            videoanydoor.build_engine("cpu", tmp_path, ArtifactCache(tmp_path), is_compiled),
        ]
        assert [engine._compile_backend for engine in made] == [backend] * 2


def test_where_nothing_can_be_compiled_one_sentence_says_so(checkpoints, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *_, **__: _raise(RuntimeError("no compiler")))
    engine = make_engine(checkpoints, tmp_path, compile_backend="inductor")
    with pytest.raises(UserError, match="leave --compile out"):
        run(engine, make_request(clip))


def _raise(error):
    raise error


# -- progress, cancel, memory -----------------------------------------------------------------------------------------------------


def test_progress_tells_every_step_and_shows_previews(checkpoints, clip, tmp_path):
    seen = []
    run(make_engine(checkpoints, tmp_path), make_request(clip, num_inference_steps=4), report=seen.append)
    steps = [item for item in seen if item.stage == "inserting 'cup'"]
    assert [(item.step, item.num_steps) for item in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(item.preview.shape == (32, 32, 3) and item.preview.dtype == np.uint8 for item in steps)
    inverted = []
    request = make_request(clip, num_inference_steps=3, init="inversion")
    run(make_engine(checkpoints, tmp_path), request, report=lambda item: inverted.append((item.stage, item.step, item.num_steps)))
    assert [item for item in inverted if "inverting" in item[0]] == [("inverting for 'cup'", step, 3) for step in (1, 2, 3)]
    stages = list(dict.fromkeys(item.stage for item in seen))
    assert stages[1].startswith("loading for 'cup': all networks stay in memory")
    stages[1] = "loading"
    assert stages == ["reading", "loading", "encoding 'cup'", "inserting 'cup'", "decoding 'cup'", "pasting"]


@pytest.mark.parametrize("stage", ["reading", "encoding 'cup'", "inserting 'cup'", "decoding 'cup'", "pasting"])
def test_cancelling_in_mid_run_leaves_the_caches_usable(stage, checkpoints, clip, tmp_path, calls, shared_plain):
    engine = make_engine(checkpoints, tmp_path)

    def stop(progress):
        if progress.stage == stage:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(engine, make_request(clip), report=stop)
    assert (images(run(engine, make_request(clip))) == shared_plain).all()
    assert calls["loads"] == 1 and calls["encodes"] == 1, "what was encoded before the stop is used"


def test_closing_the_generator_stops_the_run(checkpoints, clip, tmp_path):
    frames = make_engine(checkpoints, tmp_path).run(make_request(clip), ignore, ignore)
    assert next(frames).frame_index == 0
    frames.close()


def break_predictions(monkeypatch, times):
    original, left = VideoAnydoorPipeline._predict, [times]

    def predict(self, *args, **kwargs):
        if left[0] > 0:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(VideoAnydoorPipeline, "_predict", predict)


def test_out_of_memory_tries_a_smaller_plan_once(checkpoints, clip, tmp_path, monkeypatch, calls):
    told, engine = [], make_engine(checkpoints, tmp_path)
    break_predictions(monkeypatch, 1)
    assert len(run(engine, make_request(clip), warn=told.append)) == NUM_FRAMES
    assert len(told) == 1 and "smaller plan" in told[0] and "tiles" in told[0]
    assert calls["encodes"] == 1 and len(engine._models.keys()) == 1


def test_out_of_memory_twice_is_a_clear_sentence_and_the_next_run_works(checkpoints, clip, tmp_path, monkeypatch, shared_plain):
    engine = make_engine(checkpoints, tmp_path)
    break_predictions(monkeypatch, 2)
    with pytest.raises(UserError, match="too little memory for this run; choose a smaller size"):
        run(engine, make_request(clip))
    assert engine._models.keys() == ()
    assert (images(run(engine, make_request(clip))) == shared_plain).all()


def test_memory_is_flat_over_ten_runs(checkpoints, clip, tmp_path):
    engine, process, resident = make_engine(checkpoints, tmp_path), psutil.Process(os.getpid()), []
    for seed in range(10):
        run(engine, make_request(clip, frame_range=(0, 2), seed=seed, num_inference_steps=1, guidance_scale=1.0))
        gc.collect()
        resident.append(process.memory_info().rss)
    assert resident[-1] - resident[3] < 12e6, resident
    assert len(engine._models.keys()) == 1


# -- plans and refusals -----------------------------------------------------------------------------------------------------------


def test_facts_are_read_without_loading_and_match_the_pipeline(checkpoints, calls):
    facts = read_facts(checkpoints / "warped")
    assert calls["loads"] == 0
    pipe = VideoAnydoorPipeline.from_pretrained(checkpoints / "warped")
    assert (facts.size, facts.size_multiple, facts.stride) == (32, pipe.size_multiple, pipe.stride)
    assert facts.is_warped and facts.max_window == pipe.max_window == 32 and facts.reference_size == 32
    assert facts.num_weights.pop("identity_attention") == 0
    for name, count in facts.num_weights.items():
        assert count == sum(tensor.numel() for tensor in getattr(pipe, name).state_dict().values())


def test_the_plan_follows_the_free_memory(checkpoints, clip, tmp_path):
    facts, cuda = read_facts(checkpoints / "paper"), Runtime("cuda", "bfloat16")
    options = {"size": 32, "window": 4, "num_windows": 1, "num_steps": 2, "num_frames": 4}
    options |= {"is_guided": True, "keeps_features": False, "flops_per_s": 1e9}
    huge = choose_plan(facts, cuda, 1 << 34, **options)
    assert huge.placement == "resident" and huge.vae_chunk == 8 and not huge.is_tiled
    found = []
    for free in np.geomspace(1 << 24, 1 << 17, 60).astype(int):
        try:
            plan = choose_plan(facts, cuda, int(free), **options)
        except UserError as error:
            assert "smaller size or a shorter window" in str(error)
            found.append("refused")
            continue
        assert plan.needed_bytes <= free * 0.9
        found.append(plan.placement)
    assert list(dict.fromkeys(found)) == ["resident", "model_offload", "sequential_offload", "refused"]
    more = choose_plan(facts, cuda, 1 << 34, **options | {"keeps_features": True})
    assert more.needed_bytes > huge.needed_bytes
    chain = [huge]
    while (smaller := chain[-1].smaller(True)) is not None:
        chain.append(smaller)
    assert [plan.placement for plan in chain] == ["resident", "model_offload", "sequential_offload"] and chain[-1].is_tiled
    assert choose_plan(facts, Runtime("cpu", "float32"), 1, **options).placement == "resident"
    plan = make_engine(checkpoints, tmp_path, free_bytes=lambda: 5 * 10**9).plan(make_request(clip))
    assert plan.num_evaluations == 2 * 2 and "of 5.0 GB" in plan.describe()


def test_what_is_loaded_already_does_not_count_twice(checkpoints, clip, tmp_path, monkeypatch):
    models, runtime = ModelCache(1 << 30), Runtime("cuda", "bfloat16")
    request = make_request(clip)
    needed = make_engine(checkpoints, tmp_path)._prepare(request).extent.facts.idle_bytes("resident", runtime)
    monkeypatch.setattr("pipeline.videoanydoor.engine.free_memory_bytes", lambda _: int(needed * 2.2) - models.held_bytes)
    engine = VideoAnydoorEngine(checkpoints, runtime, models, ArtifactCache(tmp_path))
    before = engine.plan(request)
    key = _model_key(engine._prepare(request).key, before.placement, before.is_tiled)
    with models.lease(key, object, needed):
        pass
    assert models.held_bytes == needed and before.placement == "resident"
    assert engine.plan(request) == before


def test_networks_that_take_turns_give_the_same_frames(checkpoints, clip, tmp_path, monkeypatch, shared_plain):
    plan, engine = Plan("model_offload", 1, False, 0, 0, 0, 0.0, 0), make_engine(checkpoints, tmp_path)
    monkeypatch.setattr(engine, "_plan", lambda job: plan)
    for seed in (0, 1):
        frames = images(run(engine, make_request(clip, seed=seed)))
        if seed == 0:
            np.testing.assert_allclose(frames.astype(int), shared_plain.astype(int), atol=1)
    assert engine._models.keys() == (_model_key(engine._prepare(make_request(clip)).key, "model_offload", False),)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("placement", ["resident", "model_offload", "sequential_offload"])
def test_every_placement_gives_the_same_frames_on_a_device(placement, checkpoints, clip, tmp_path, monkeypatch, shared_plain):
    runtime = Runtime("cuda", "float32")
    engine = VideoAnydoorEngine(checkpoints, runtime, ModelCache(1 << 30), ArtifactCache(tmp_path / "artifacts"))
    monkeypatch.setattr(engine, "_plan", lambda job: Plan(placement, 1, placement == "sequential_offload", 0, 0, 0, 0.0, 0))
    for _ in range(2):
        frames = images(run(engine, make_request(clip)))
        assert np.abs(frames.astype(int) - shared_plain).mean() < 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 30}, "engine.size must be a multiple of 8"),
        ({"window": 33}, "engine.window must be 2 to 32"),
        ({"window": 1}, "engine.window must be 2 to 32"),
        ({"init": "zero"}, "engine.init must be noise, source or inversion"),
        ({"num_inference_steps": 0}, "engine.num_inference_steps must be at least 1"),
        ({"checkpoint": "missing"}, "use one of 'paper', 'warped'"),
        ({"checkpoint": None}, "several checkpoints"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_before_anything_is_read(change, message, checkpoints, clip, tmp_path):
    engine = make_engine(checkpoints, tmp_path)
    request = make_request(clip, **change)
    for attempt in (lambda: engine.plan(request), lambda: run(engine, request, report=lambda _: pytest.fail("nothing may start"))):
        with pytest.raises(UserError, match=message):
            attempt()


def test_without_a_checkpoint_the_person_is_told_how_to_get_one(clip, tmp_path):
    for folder in (None, tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"python -m pipeline videoanydoor init.*compositor"):
            run(make_engine(folder, tmp_path), make_request(clip))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="'broken' is incomplete or damaged"):
        run(make_engine(tmp_path, tmp_path), make_request(clip, checkpoint="broken"))


def test_surplus_trajectories_are_told(checkpoints, clip, tmp_path):
    anchors = {f"p{index}": (6.0 + 2.5 * (index % 9), 6.0 + 8 * (index // 9)) for index in range(18)}
    keys = [TrajectoryKeys(name, {0: (0.3 + 0.01 * index, 0.4)}) for index, name in enumerate(anchors)]
    told = []
    layer = replace(make_layer(), trajectories=build_trajectory_set(keys, anchors, HW, NUM_FRAMES))
    run(make_engine(checkpoints, tmp_path), make_request(clip, layer, frame_range=(0, 1)), warn=told.append)
    assert told == ["layer 'cup': of its 18 trajectories the 16 longest are used."]
