"""The still picture of a label map: its colours, its sides, how stable labels are, and what is written."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from label_maps import N_LABELS, make_label_map, make_pale_map
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patches import Rectangle

from models.tasks import TASKS
from utils.plotting import montage as module
from utils.plotting.colors import hatch_color, study_colors, to_published_color
from utils.plotting.label_maps import OUTSIDE
from utils.plotting.montage import montage
from utils.plotting.page_layout import PAGE_WIDTH, Look, save_figure
from utils.plotting.surface import HEMISPHERES, load_hemisphere

AFFINE = np.array([[3.0, 0, 0, -90], [0, 3, 0, -126], [0, 0, 3, -72], [0, 0, 0, 1]])
SHAPE = (61, 73, 61)


def blocks(n_labels):
    """Labels 1 to n in blocks of 12 mm over the posterior half of the volume."""
    x, y, z = np.indices(SHAPE) // 4
    return np.where(y < 9, 1 + (x + 3 * y + 5 * z) % n_labels, 0).astype(np.int16)


@pytest.fixture(scope="module")
def label_map():
    return make_label_map(blocks(N_LABELS), AFFINE, counts=list(range(1, N_LABELS + 1)))


@pytest.fixture(scope="module")
def stability(label_map):
    """Shares that rise from left to right where the label is a network, NaN elsewhere."""
    rising = np.broadcast_to(np.clip(np.arange(-10, SHAPE[0] - 10) / 40, 0, 1)[:, None, None], SHAPE)
    return np.where((label_map.data > 0) & (label_map.data <= len(TASKS)), rising, np.nan)


@pytest.fixture(scope="module")
def figure(label_map, stability):
    return montage(label_map, Look("Best network", "SIMULATED EXAMPLE"), "A note.", stability)


def colors_of(axes):
    (surface_drawn,) = axes.collections
    return {to_hex(color) for color in np.unique(surface_drawn.get_facecolor().round(6), axis=0)}


def is_grey(color):
    return color[1:3] == color[3:5] == color[5:7]


def assert_no_text_overlaps(figure):
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [text for text in figure.texts if text.get_text()]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
        assert text.get_fontsize() >= 6.0
        assert not [axes for axes in figure.axes if box.overlaps(axes.get_window_extent())], text
    for (one, a), (other, b) in combinations(zip(texts, boxes, strict=True), 2):
        assert not a.overlaps(b), (one, other)


@pytest.mark.slow
def test_both_maps_show_every_side_in_legal_colours(figure, label_map):
    assert [axes.get_label() for axes in figure.axes] == 2 * [
        f"{hemi} {view}" for hemi in HEMISPHERES for view in ("lateral", "medial", "posterior", "ventral")
    ]
    legal = {color.lower() for color in label_map.colors}
    shown = set().union(*(colors_of(axes) for axes in figure.axes[:8]))
    assert {color for color in shown if not is_grey(color)} | {c for c in legal if is_grey(c)} == legal
    steps = set().union(*(colors_of(axes) for axes in figure.axes[8:]))
    assert {color for color in steps if not is_grey(color)} == set(module._step_colors())


@pytest.mark.slow
def test_triangles_have_the_label_and_the_step_of_their_place(label_map, stability):
    figure = montage(label_map, Look("T"), "", np.where(np.isnan(stability), np.nan, 0.55))
    (sixth,) = {color for axes in figure.axes[8:] for color in colors_of(axes) if not is_grey(color)}
    assert sixth == module._step_colors()[5]
    nowhere = montage(label_map, Look("T"), "", np.full(SHAPE, np.nan))
    assert all(is_grey(color) for axes in nowhere.axes[8:] for color in colors_of(axes))


@pytest.mark.parametrize(("share", "step"), [(0, 1), (0.05, 1), (0.1, 1), (0.11, 2), (0.3, 3), (0.7, 7), (1, 10)])
def test_steps_hold_their_upper_end(share, step):
    assert module._in_steps(np.array([share, np.nan]), (2,)).tolist() == [step, 0]


def test_what_has_no_stability_is_lighter_than_the_lightest_step():
    lightness = [np.dot([0.2126, 0.7152, 0.0722], to_rgb(color)) for color in module._step_colors()]
    assert lightness == sorted(lightness, reverse=True)
    assert lightness[0] < module._PALE_SULCUS - 0.05


@pytest.mark.parametrize("hemi", HEMISPHERES)
def test_sides_are_seen_from_where_they_say(hemi):
    nose, outside = np.array([0, 1, 0]), np.array([-1 if hemi == "left" else 1, 0, 0])
    for view in ("lateral", "medial", "posterior", "ventral"):
        screen = module._screen(hemi, view)
        np.testing.assert_allclose(screen @ screen.T, np.eye(3))
        assert np.linalg.det(screen) == 1  # never a mirror image
    assert module._screen(hemi, "lateral")[2] @ outside == 1
    assert module._screen(hemi, "medial")[2] @ outside == -1
    assert module._screen(hemi, "posterior")[2] @ nose == -1
    assert module._screen(hemi, "ventral")[2] @ [0, 0, 1] == -1


def test_only_what_faces_the_reader_is_drawn_the_nearest_last(figure):
    half = load_hemisphere("left")
    lateral = figure.axes[0].collections[0]
    assert 0.3 < len(lateral.get_paths()) / len(half.faces) < 0.7
    y, z = lateral.get_paths()[-1].vertices[:3].mean(axis=0)
    middle = (half.inflated.min(axis=0) + half.inflated.max(axis=0)) / 2
    near = np.abs(half.inflated[:, 1:] - middle[1:] - [-y, z]).max(axis=1) < 6
    assert half.inflated[near, 0].min() < np.percentile(half.inflated[:, 0], 1)


def test_all_sides_have_one_scale_and_the_brain_fits(figure):
    for axes in figure.axes:
        box, limits = axes.get_window_extent(), (*axes.get_xlim(), *axes.get_ylim())
        np.testing.assert_allclose(box.width / (limits[1] - limits[0]), box.height / (limits[3] - limits[2]))
        corners = np.concatenate([path.vertices for path in axes.collections[0].get_paths()])
        (left, bottom), (right, upper) = corners.min(axis=0) + 1e-6, corners.max(axis=0) - 1e-6
        assert limits[0] <= left and right <= limits[1] and limits[2] <= bottom and upper <= limits[3]
    scales = {round(axes.get_window_extent().width / np.ptp(axes.get_xlim()), 6) for axes in figure.axes[:8]}
    assert len(scales) == 1
    assert figure.get_size_inches()[0] == PAGE_WIDTH and figure.get_size_inches()[1] <= 8.75


def test_it_explains_itself_without_overlaps(figure, label_map):
    shown = [text.get_text() for text in figure.texts]
    counted = [f"{name}  {count:,}" for name, count in zip(label_map.names, label_map.counts, strict=True)]
    for expected in [
        *counted,
        "2D",
        "3D",
        "semantic",
        "baseline",
        "Best network",
        "SIMULATED EXAMPLE",
        OUTSIDE,
    ]:
        assert expected in shown
    assert {"0", "0.2", "1"} <= set(shown)
    assert "A note." in " ".join(shown) and "Stability: proportion of random subsets" in " ".join(shown)
    assert_no_text_overlaps(figure)


@pytest.mark.slow
def test_without_stability_there_is_one_map(label_map):
    figure = montage(label_map, Look("T"), "")
    assert len(figure.axes) == 8
    assert "tability" not in " ".join(text.get_text() for text in figure.texts)


@pytest.mark.slow
@pytest.mark.parametrize(
    "legend_groups", [["", "", ""], ["a family whose name is far too long for a column of the legend"] * 3]
)
def test_long_names_stay_in_their_columns(label_map, legend_groups):
    few = replace(
        label_map,
        data=blocks(3),
        names=[
            "2D",
            "a name that is much longer than the others are, and longer than half of the page is wide",
            "m" * 99,
        ],
        colors=["#0077BB", "#E69F00", "#882255"],
        legend_groups=legend_groups,
        counts=[1234, 0, 7],
        unit="ROIs",
    )
    figure = montage(few, Look("T"), "")
    shown = {text.get_text() for text in figure.texts}
    assert {"2D  1,234", "Labels and their number of ROIs", OUTSIDE} <= shown
    assert any(text.endswith("…mmmm  7") or text.endswith("m  7") for text in shown)
    assert_no_text_overlaps(figure)


@pytest.mark.slow
def test_nothing_labelled_at_all(label_map):
    figure = montage(replace(label_map, data=np.zeros(SHAPE, np.int16)), Look("T"), "")
    assert all(is_grey(color) for axes in figure.axes for color in colors_of(axes))


def test_published_look(label_map):
    figure = montage(label_map, Look("T", style="paper"), "")
    assert [axes.get_label() for axes in figure.axes[:3]] == ["left posterior", "left medial", "left ventral"]
    shown = set().union(*(colors_of(axes) for axes in figure.axes))
    published = {to_published_color(color) for color in label_map.colors}
    assert {color for color in shown if not is_grey(color)} | {"#cccccc"} == published
    assert "#cccccc" in shown
    assert_no_text_overlaps(figure)


def test_published_colours():
    assert [to_published_color(color) for color in ("#0077BB", "#e69f00", "#882255")] == [
        "#0000ff",
        "#00ff00",
        "#ff00ff",
    ]
    assert to_published_color(study_colors(TASKS)["edge2d"]) == "#0000a6"  # 2D edges
    assert to_published_color("#123456") == "#123456"


@pytest.mark.parametrize(
    ("stability", "message"),
    [
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\): expected that of the labels, \(61, 73, 61\)"),
        (np.full(SHAPE, 1.5), "ranges from 1.5 to 1.5: expected 0 to 1"),
        (np.full(SHAPE, -0.1), "ranges from -0.1"),
    ],
)
def test_what_is_no_stability_is_refused(label_map, stability, message):
    with pytest.raises(ValueError, match=message):
        montage(label_map, Look("T"), "", stability)


def test_drawing_leaves_the_meshes_alone(label_map):
    before = load_hemisphere("left").inflated.copy()
    montage(label_map, Look("T"), "")
    np.testing.assert_array_equal(before, load_hemisphere("left").inflated)


@pytest.mark.slow
def test_files_are_reproducible_and_text_stays_text(tmp_path, label_map, stability, figure):
    again = montage(label_map, Look("Best network", "SIMULATED EXAMPLE"), "A note.", stability)
    save_figure(figure, tmp_path / "a.svg", tmp_path / "a.png")
    save_figure(again, tmp_path / "b.svg", tmp_path / "b.png")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert ">semantic segm  18</text>" in svg and ">SIMULATED EXAMPLE</text>" in svg


def test_pale_places_are_hatched_in_the_map_and_in_the_legend():
    own = make_pale_map(blocks(5), AFFINE)
    figure = montage(own, Look("T"), "")
    shown = set().union(*(colors_of(axes) for axes in figure.axes))
    hatches = {hatch_color(color) for color in own.colors[3:]}
    assert {color.lower() for color in own.colors} | hatches <= shown
    legend = {to_hex(patch.get_edgecolor()) for patch in figure.findobj(Rectangle) if patch.get_hatch()}
    assert legend == hatches
    texts = [text.get_text() for text in figure.texts]
    assert f"2D  {own.counts[0]:,} · {own.counts[3]:,}" in texts and f"not significant  {own.counts[2]:,}" in texts
    assert "Pale and hatched:" in " ".join(texts)
    assert_no_text_overlaps(figure)
    solid = montage(make_pale_map(np.minimum(blocks(5), 3), AFFINE), Look("T"), "")
    assert not hatches & set().union(*(colors_of(axes) for axes in solid.axes))


def test_hatching_lines_are_parallel_evenly_spaced_and_inside_of_their_triangles(rng):
    triangles = rng.uniform(-5, 5, (200, 3, 2))
    lines, triangle = module._hatching(triangles, 0.7)
    level = (lines @ [-1, 1]) / np.sqrt(2) / 0.7
    np.testing.assert_allclose(level, np.round(level), atol=1e-9)
    np.testing.assert_allclose(level[:, 0], level[:, 1], atol=1e-9)
    sides = np.stack([triangles[triangle], np.roll(triangles[triangle], -1, axis=1)], axis=2)  # (n, 3 sides, 2 ends, 2)
    for end in range(2):  # each end lies on a side
        way = sides[:, :, 1] - sides[:, :, 0]
        to_end = lines[:, end, None] - sides[:, :, 0]
        off = np.abs(way[..., 0] * to_end[..., 1] - way[..., 1] * to_end[..., 0])
        along = (way * to_end).sum(axis=-1) / (way**2).sum(axis=-1)
        assert ((off < 1e-9) & (along > -1e-9) & (along < 1 + 1e-9)).any(axis=1).all()
    levels = triangles @ [-1, 1] / np.sqrt(2) / 0.7
    expected = np.floor(levels.max(axis=1)) - np.ceil(levels.min(axis=1)) + 1
    np.testing.assert_array_equal(np.bincount(triangle, minlength=200), expected)
