"""Segmenting one volume: the grid is exact, memory bounded, trouble said."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import cast

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from semiseg import inference, sliding
from semiseg.config import Modality, PredictConfig
from semiseg.data.training_grid import to_training_grid
from semiseg.errors import DeviceError, ImageError, StudyError
from semiseg.events import Event
from semiseg.images.grid import Grid, Triple
from semiseg.images.reading import Image
from semiseg.inference import PredictionArrays, memory_needed, predict_image
from semiseg.models import Model
from semiseg.resources import Memory

CPU = torch.device("cpu")
PLAIN = PredictConfig(device="cpu", clean_up=False)
TURNS = list(itertools.product(itertools.permutations(range(3)), [(1, 1, 1), (-1, 1, -1)]))


class Threshold(nn.Module):
    """Background below 0, structure 7 above, structure 9 above 0.5; sharp where `gain` is high."""

    def __init__(self, gain: float = 50.0) -> None:
        super().__init__()
        self.gain = gain
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.sizes.append(tuple(image.shape[2:]))
        steps = [torch.zeros_like(image), image, 2 * image - 0.5]
        return torch.cat(steps, dim=1) * self.gain


def make_model(
    network: nn.Module | None = None,
    spacing: Triple = (2.0, 1.5, 1.5),
    window: tuple[int, int, int] = (8, 16, 16),
    **fields: object,
) -> Model:
    values: dict[str, object] = {
        "name": "model 1",
        "network": network or Threshold(),
        "classes": (0, 7, 9),
        "names": {7: "liver", 9: "aorta"},
        "spacing_mm_zyx": spacing,
        "window_zyx": window,
        "multiple_zyx": (4, 4, 4),
        "device": CPU,
        **fields,
    }
    return Model(**values)  # type: ignore[arg-type]


def oblique(shape: tuple[int, int, int], spacing: Triple) -> Grid:
    a, b = 0.3, -0.2
    turn = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    tilt = np.array([[1, 0, 0], [0, math.cos(b), -math.sin(b)], [0, math.sin(b), math.cos(b)]])
    z, y, x = shape
    return Grid(
        size_xyz=(x, y, z),
        spacing_mm_xyz=spacing,
        origin_mm_lps=(-31.0, 12.5, 900.0),
        direction=tuple(float(v) for v in (turn @ tilt).ravel()),
    )


def ball_image(grid: Grid, radius_mm: float = 12.0) -> Image:
    """HU of a bright ball with a brighter one inside, at places in the world."""
    z, y, x = np.indices(grid.shape_zyx)
    world = grid.to_world(np.stack([x, y, z], axis=-1).astype(float))
    centre = grid.centre_mm_lps + np.array([3.0, -2.0, 4.0])
    distance = np.linalg.norm(world - centre, axis=-1)
    array = np.where(distance < radius_mm, 120.0, -20.0)
    array[distance < radius_mm / 2] = 240.0
    return Image(array=array.astype(np.float32), grid=grid)


def turned(image: Image, axes: tuple[int, ...], signs: tuple[int, ...]) -> Image:
    """The same voxels at the same places, stored with other array axes."""
    slices = tuple(slice(None, None, sign) for sign in signs)
    array = np.ascontiguousarray(image.array.transpose(axes)[slices])
    columns = image.grid.affine_lps[:3, :3]
    order_xyz = [2 - axes[2 - i] for i in range(3)]
    signs_xyz = np.array(signs[::-1])
    matrix = columns[:, order_xyz] * signs_xyz
    first = np.zeros(3)
    for new, old in enumerate(order_xyz):
        if signs_xyz[new] < 0:
            first[old] = image.grid.size_xyz[old] - 1
    spacing = np.linalg.norm(matrix, axis=0)
    grid = Grid(
        size_xyz=cast("tuple[int, int, int]", tuple(image.grid.size_xyz[i] for i in order_xyz)),
        spacing_mm_xyz=cast(Triple, tuple(float(s) for s in spacing)),
        origin_mm_lps=cast(Triple, tuple(float(v) for v in image.grid.to_world(first))),
        direction=tuple(float(v) for v in (matrix / spacing).ravel()),
    )
    return Image(array=array, grid=grid)


def expected(image: Image) -> NDArray[np.uint16]:
    return np.select([image.array > 200, image.array > 50], [9, 7], 0).astype(np.uint16)


def run(
    model: Model,
    image: Image,
    modality: Modality = "CT",
    config: PredictConfig = PLAIN,
    emit: Callable[[Event], None] = lambda event: None,
) -> PredictionArrays:
    return predict_image(model, image, modality, config, emit)


# ---- the image's own grid ------------------------------------------------------------------


@pytest.mark.parametrize(("axes", "signs"), TURNS)
def test_label_coincides_with_the_structure_however_the_image_is_stored(
    axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    image = turned(ball_image(oblique((11, 21, 26), (1.5, 1.5, 2.0))), axes, signs)
    result = run(make_model(), image)
    np.testing.assert_array_equal(result.label, expected(image))
    assert result.label.dtype == np.uint16
    assert result.uncertainty.shape == image.grid.shape_zyx


@pytest.mark.parametrize(("axes", "signs"), TURNS[:6])
def test_result_of_a_turned_copy_is_the_turned_result_to_the_bit(
    axes: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    image = ball_image(oblique((9, 20, 23), (0.8, 1.1, 2.7)))
    model = make_model(Threshold(gain=2.0), spacing=(2.0, 1.5, 1.5))
    plain, other = run(model, image), run(model, turned(image, axes, signs))
    slices = tuple(slice(None, None, sign) for sign in signs)
    np.testing.assert_array_equal(other.label, plain.label.transpose(axes)[slices])
    np.testing.assert_array_equal(other.uncertainty, plain.uncertainty.transpose(axes)[slices])


@pytest.mark.parametrize("spacing", [(1.1, 0.9, 0.7), (4.0, 3.0, 3.5), (0.9, 2.5, 1.5)])
def test_label_lies_within_a_voxel_of_the_structure_at_other_training_spacings(
    spacing: Triple,
) -> None:
    image = ball_image(oblique((14, 24, 24), (1.5, 1.5, 2.0)))
    found = run(make_model(spacing=spacing), image).label > 0
    true = image.array > 50
    both = np.argwhere(found).mean(0) - np.argwhere(true).mean(0)
    assert np.abs(both * image.grid.spacing_mm_zyx).max() < 0.5
    assert 2 * (found & true).sum() / (found.sum() + true.sum()) > 0.93


@pytest.mark.parametrize("shape", [(1, 20, 20), (3, 5, 40), (40, 3, 4), (8, 16, 16)])
def test_thin_and_small_volumes_are_segmented_whole(shape: tuple[int, int, int]) -> None:
    image = ball_image(oblique(shape, (1.5, 1.5, 2.0)), radius_mm=9.0)
    np.testing.assert_array_equal(run(make_model(), image).label, expected(image))


def test_result_does_not_depend_on_how_windows_lie() -> None:
    image = ball_image(oblique((12, 30, 30), (1.0, 1.2, 1.9)))
    network = Threshold(gain=2.0)
    small = run(make_model(network), image)
    whole = run(make_model(network, window=(32, 64, 64)), image)
    np.testing.assert_array_equal(small.label, whole.label)
    np.testing.assert_allclose(small.uncertainty, whole.uncertainty, atol=1e-4)


class Position(nn.Module):
    """Depends on where in the window a voxel lies, so that blending matters."""

    def forward(self, image: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, image.shape[-1]).expand_as(image)
        return torch.cat([image, ramp, -ramp * image], dim=1)


def test_stream_of_slices_equals_the_whole_volume_at_once() -> None:
    image = ball_image(oblique((19, 33, 37), (1.0, 1.3, 1.7)))
    model = make_model(Position(), spacing=(2.2, 1.6, 1.4))
    result = run(model, image)
    ready = to_training_grid(image, "CT", model.spacing_mm_zyx)
    whole = sliding_window_inference(
        torch.from_numpy(ready.array)[None, None],
        model.window_zyx,
        1,
        lambda w: model.network(w).softmax(1),
        0.5,
        mode="gaussian",
        cval=ready.fill,
    )
    size = ready.orientation.grid.shape_zyx
    fine = nn.functional.interpolate(whole, size=size, mode="trilinear")[0]
    entropy = torch.special.entr(fine).sum(0) / math.log(3)
    turned_back = ready.orientation.invert(entropy.numpy())
    np.testing.assert_allclose(result.uncertainty, turned_back, atol=1e-5)
    channel = ready.orientation.invert(fine.argmax(0).numpy())
    assert (np.asarray(model.classes)[channel] != result.label).mean() < 1e-4


# ---- uncertainty, clean-up, mirroring ------------------------------------------------------


@pytest.mark.parametrize(("gain", "low", "high"), [(0.0, 0.999, 1.0), (1e4, 0.0, 0.01)])
def test_uncertainty_is_one_without_any_idea_and_zero_when_sure(
    gain: float, low: float, high: float
) -> None:
    image = ball_image(oblique((10, 20, 20), (1.5, 1.5, 2.0)))
    found = run(make_model(Threshold(gain)), image).uncertainty
    assert found.dtype == np.float32
    assert 0 <= found.min() <= found.max() <= 1
    assert low <= np.median(found) <= high


def test_clean_up_removes_islands_and_counts_them() -> None:
    image = ball_image(oblique((12, 30, 30), (1.5, 1.5, 2.0)))
    image.array[1, 1:3, 1:3] = 120.0
    dirty = run(make_model(), image)
    events: list[Event] = []
    clean = run(make_model(), image, config=PredictConfig(device="cpu"), emit=events.append)
    assert dirty.removed_voxels == {}
    assert (dirty.label[1, 1:3, 1:3] == 7).all()
    assert clean.removed_voxels == {7: 4}
    assert "removing loose islands" in [event.message for event in events]
    assert not clean.label[1, 1:3, 1:3].any()


class Sideways(nn.Module):
    """Sees the structure in the upper half of a window's last axis only."""

    def forward(self, image: Tensor) -> Tensor:
        half = image.clone()
        half[..., : image.shape[-1] // 2] = -1
        return torch.cat([torch.zeros_like(half), half, half - 1], dim=1) * 20


def test_windows_are_mirrored_only_along_axes_that_the_model_learned() -> None:
    image = ball_image(oblique((8, 16, 16), (1.5, 1.5, 2.0)))
    flips = PredictConfig(device="cpu", clean_up=False, flips=True)
    events: list[Event] = []
    never = run(make_model(Sideways()), image, config=flips, emit=events.append)
    np.testing.assert_array_equal(never.label, run(make_model(Sideways()), image).label)
    assert "did not learn from mirrored images" in never.notes[0]
    assert any("mirrored" in event.message for event in events)
    other = run(make_model(Sideways(), mirror_axes=(0, 1)), image, config=flips)
    np.testing.assert_allclose(other.uncertainty, never.uncertainty, atol=1e-6)
    safe = run(make_model(Sideways(), mirror_axes=(2,)), image, config=flips)
    assert np.abs(safe.uncertainty - never.uncertainty).max() > 0.1
    assert not safe.notes


def test_a_network_for_slices_is_run_slice_by_slice() -> None:
    image = ball_image(oblique((7, 20, 20), (1.5, 1.5, 2.0)))
    network = Threshold()
    model = make_model(network, window=(1, 8, 8), multiple_zyx=(1, 4, 4))
    np.testing.assert_array_equal(run(model, image).label, expected(image))
    assert set(network.sizes) == {(8, 8)}


# ---- trouble -------------------------------------------------------------------------------


def test_unknown_modality_is_refused_with_what_to_do() -> None:
    image = ball_image(oblique((4, 8, 8), (1.5, 1.5, 2.0)))
    with pytest.raises(ImageError, match=r"'PET'.*expected one of CT, MR; set it"):
        run(make_model(), image, cast("Modality", "PET"))


def test_a_model_that_never_saw_the_modality_says_so() -> None:
    image = ball_image(oblique((4, 8, 8), (1.5, 1.5, 2.0)))
    assert "learned from CT only" in run(make_model(modalities=("CT",)), image, "MR").notes[0]


class Hungry(Threshold):
    """Runs out of memory for windows of more than `limit` voxels."""

    def __init__(self, limit: int, error: type[Exception] = MemoryError) -> None:
        super().__init__()
        self.limit, self.error = limit, error

    def forward(self, image: Tensor) -> Tensor:
        if image[0, 0].numel() > self.limit:
            raise self.error("out of memory")
        return super().forward(image)


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, torch.cuda.OutOfMemoryError])
def test_out_of_memory_takes_smaller_windows_and_says_so(error: type[Exception]) -> None:
    image = ball_image(oblique((9, 40, 40), (1.5, 1.5, 2.0)))
    events: list[Event] = []
    model = make_model(Hungry(8 * 16 * 32, error), window=(8, 32, 32))
    result = run(model, image, emit=events.append)
    np.testing.assert_array_equal(result.label, expected(image))
    assert result.window_zyx == (8, 16, 32)
    assert "Out of memory on cpu with windows of 8 x 32 x 32" in result.notes[0]
    assert result.notes[0] in [event.message for event in events]


def test_out_of_memory_with_the_smallest_windows_is_a_sentence() -> None:
    image = ball_image(oblique((9, 20, 20), (1.5, 1.5, 2.0)))
    with pytest.raises(DeviceError, match="smallest windows on the CPU; close"):
        run(make_model(Hungry(1)), image)


def test_other_failures_of_the_network_are_not_taken_for_lack_of_memory() -> None:
    class Broken(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        run(make_model(Broken()), ball_image(oblique((4, 8, 8), (1.5, 1.5, 2.0))))


def test_output_that_is_not_a_number_is_refused() -> None:
    image = ball_image(oblique((4, 8, 8), (1.5, 1.5, 2.0)))
    with pytest.raises(StudyError, match="not a number"):
        run(make_model(Threshold(gain=math.nan)), image)


def test_too_little_memory_is_said_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    little = Memory(total_bytes=10**9, free_bytes=10**6)
    monkeypatch.setattr(inference, "usable_memory", lambda: little)
    network = Threshold()
    with pytest.raises(DeviceError, match=r"8 x 8 x 4 voxels needs about .* are free; close"):
        run(make_model(network), ball_image(oblique((4, 8, 8), (1.5, 1.5, 2.0))))
    assert not network.sizes


def test_a_stop_in_the_middle_ends_the_work() -> None:
    class Stopped(Threshold):
        def forward(self, image: Tensor) -> Tensor:
            if len(self.sizes) == 2:
                raise KeyboardInterrupt
            return super().forward(image)

    model = make_model(Stopped())
    with pytest.raises(KeyboardInterrupt):
        run(model, ball_image(oblique((9, 40, 40), (1.5, 1.5, 2.0))))


def test_progress_counts_windows_with_the_time_left() -> None:
    events: list[Event] = []
    image = ball_image(oblique((9, 40, 40), (1.5, 1.5, 2.0)))
    model = make_model()
    run(model, image, emit=events.append)
    total = inference.windows_of(model, image.grid, 0.5)
    assert (events[0].step, events[-1].step, events[-1].total) == (0, total, total)
    assert events[-1].data["seconds_left"] == 0


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.largest = max(self.largest, out.numel() * out.element_size())
        return out


def test_no_tensor_holds_the_probabilities_of_the_whole_volume(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sliding, "_CHUNK_VALUES", 1)
    grid = oblique((100, 24, 24), (1.0, 1.0, 1.0))
    image = Image(array=np.full(grid.shape_zyx, 10, np.float32), grid=grid)
    image.array[40:90, 10:20, 10:20] = 100
    model = make_model(spacing=(1.0, 1.0, 1.0), window=(16, 24, 24))
    with LargestTensor() as seen:
        run(model, image)
    assert seen.largest <= image.array.nbytes  # a third of all probabilities
    assert memory_needed(model, grid) > 13 * image.array.size


def test_each_modality_is_segmented_by_its_own_network_where_there_is_one() -> None:
    image = ball_image(oblique((12, 30, 30), (2.0, 1.5, 1.5)))
    all_liver = Threshold()
    model = make_model(predictors={"MR": lambda windows: all_liver(torch.full_like(windows, 0.4))})
    config = PredictConfig(clean_up=False)
    assert set(np.unique(predict_image(model, image, "CT", config).label)) == {0, 7, 9}
    assert set(np.unique(predict_image(model, image, "MR", config).label)) == {7}
