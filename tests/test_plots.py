"""Figures of ROIs: the numbers in them, and that nothing lies over anything else."""

from __future__ import annotations

import struct
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils import plots
from utils.plots import CeilingPanel, RoiPanel, roi_figure, save_figure

COLORS = ["#0077BB", "#E69F00", "#882255", "#228833", "#EE3377"]
LABELS = ["2D", "3D", "semantic", "other", "fifth"]


def subsets_of(n):
    return [frozenset(s) for size in range(1, n + 1) for s in combinations(range(n), size)]


def make_panel(roi="V1v", unique=(0.11, 0.03, 0.05), **changes):
    unique = np.array(unique)
    n = len(unique)
    parts = {s: float(unique[min(s)]) if len(s) == 1 else 0.06 for s in subsets_of(n)}
    content = {
        "roi": roi,
        "labels": LABELS[:n],
        "colors": COLORS[:n],
        "unique": unique,
        "se": np.full(n, 0.01),
        "significant": list(unique > 0.02),
        "brackets": [(i, j) for i, j in combinations(range(n), 2) if abs(unique[i] - unique[j]) > 0.03],
        "total": float(sum(parts.values())),
        "parts": parts,
    }
    return RoiPanel(**{**content, **changes})


def random_panels(seed, n_sets):
    rng = np.random.default_rng(seed)
    return [
        make_panel(
            f"region {i}",
            rng.normal(0.03, 0.04, n_sets),
            se=rng.uniform(0, 0.03, n_sets),
            significant=list(rng.random(n_sets) < 0.6),
            brackets=[pair for pair in combinations(range(n_sets), 2) if rng.random() < 0.7],
        )
        for i in range(int(rng.integers(1, 7)))
    ]


def make_figure(panels, **options):
    return roi_figure(panels, **{"title": "Title", "note": "Note.", "legend": {}, **options})


def bar_axes(figure):
    """Axes of the grid, in reading order."""
    return [axes for axes in figure.axes if axes.get_gid() != "venn" and axes.get_title(loc="left")]


def venn_axes(figure):
    return [axes for axes in figure.axes if axes.get_gid() == "venn"]


def with_gid(axes, gid):
    return [line for line in axes.lines if line.get_gid() == gid]


def boxes_of(axes, renderer):
    """Bounding boxes by kind of artist, in pixels."""
    return {
        "bars": [bar.get_window_extent(renderer) for bar in axes.patches if isinstance(bar, Rectangle)],
        "errors": [path.get_extents(axes.transData) for lines in axes.collections for path in lines.get_paths()],
        "stars": [star.get_window_extent(renderer) for star in with_gid(axes, "star")],
        "brackets": [line.get_window_extent(renderer) for line in with_gid(axes, "bracket")],
    }


# ---------------------------------------------------------------------------------------------------------------- bars


def test_bars_error_bars_and_titles_are_the_numbers_given():
    panels = [
        make_panel("V1v", total=0.64),
        make_panel("IPS-0", (0.02, -0.015, 0.04), total=-0.044),
        make_panel(total=-0.004),
    ]
    figure = make_figure(panels)
    titles = [axes.get_title(loc="left") for axes in bar_axes(figure)]
    assert titles == ["V1v: R² = 0.64", "IPS-0: R² = −0.04", "V1v: R² = 0.00"]
    for axes, panel in zip(bar_axes(figure), panels, strict=True):
        bars = [bar for bar in axes.patches if isinstance(bar, Rectangle)]
        np.testing.assert_allclose([bar.get_height() for bar in bars], panel.unique)
        np.testing.assert_allclose([bar.get_x() + bar.get_width() / 2 for bar in bars], [0, 1, 2])
        assert [mpl.colors.to_hex(bar.get_facecolor()) for bar in bars] == [color.lower() for color in panel.colors]
        segments = np.array(axes.collections[0].get_segments())
        np.testing.assert_allclose(segments[:, 0, 1], panel.unique - panel.se)
        np.testing.assert_allclose(segments[:, 1, 1], panel.unique + panel.se)
        assert [label.get_text() for label in axes.get_xticklabels()] == list(panel.labels)


def test_stars_and_brackets_are_those_given():
    panel = make_panel(significant=[True, False, True], brackets=[(0, 1), (2, 0)])
    (axes,) = bar_axes(make_figure([panel]))
    brackets = [(round(min(line.get_xdata())), round(max(line.get_xdata()))) for line in with_gid(axes, "bracket")]
    assert brackets == [(0, 1), (0, 2)]  # narrow spans first
    stars = sorted(float(star.get_xdata()[0]) for star in with_gid(axes, "star"))
    assert stars == [0, 0.5, 1, 2]  # two over bars, one over the middle of each bracket


def test_all_panels_share_a_y_axis_that_holds_negative_values():
    panels = [make_panel(), make_panel("b", (-0.05, 0.01, 0.02)), make_panel("c", (0.3, 0.01, 0.02))]
    limits = {axes.get_ylim() for axes in bar_axes(make_figure(panels))}
    ((low, high),) = limits
    assert low < -0.06 and high > 0.31


def test_missing_standard_errors_leave_the_bars():
    (axes,) = bar_axes(make_figure([make_panel(se=np.array([np.nan, 0.01, np.nan]))]))
    assert len(axes.collections[0].get_segments()) == 1
    assert np.isfinite(axes.get_ylim()).all()


def test_nothing_explained_at_all():
    (axes,) = bar_axes(make_figure([make_panel(unique=(0.0, 0.0), se=np.zeros(2))]))
    assert axes.get_ylim()[1] > 0


@pytest.mark.parametrize("n_sets", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_stars_and_brackets_overlap_nothing_and_stay_inside(seed, n_sets):
    figure = make_figure(random_panels(seed, n_sets))
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in bar_axes(figure):
        boxes = boxes_of(axes, renderer)
        marks = boxes["stars"] + boxes["brackets"]
        for i, mark in enumerate(marks):
            others = boxes["bars"] + boxes["errors"] + marks[:i]
            assert not [other for other in others if mark.overlaps(other)]
            assert axes.bbox.y0 <= mark.y0 and mark.y1 <= axes.bbox.y1
        assert all(axes.bbox.y0 <= bar.y0 and bar.y1 <= axes.bbox.y1 for bar in boxes["bars"] + boxes["errors"])


def test_the_overlap_check_can_fail(monkeypatch):
    monkeypatch.setattr(plots, "_STAR", -0.05)
    with pytest.raises(AssertionError):
        test_stars_and_brackets_overlap_nothing_and_stay_inside(0, 3)


# ----------------------------------------------------------------------------------------------------------------- page


TASK_NAMES = ["semantic segm", "2.5d segment", "3D keypoints"]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 15, 25])
@pytest.mark.parametrize("labels", [LABELS[:3], TASK_NAMES])
def test_no_text_lies_over_another_or_is_cut(n, labels):
    panels = [make_panel(f"region {i}", labels=labels, parts=dict.fromkeys(subsets_of(3), -0.1)) for i in range(n)]
    figure = make_figure(
        panels,
        title="A rather long title that says what the figure shows, and for whom, and why, and with what, and how well",
        note="A note of many words. " * 12,
        legend={f"networks of kind {i}": color for i, color in enumerate(COLORS * 3)},
        ceiling=CeilingPanel([f"region {i}" for i in range(n)], *np.full((5, n), 0.1)),
        banner="SIMULATED EXAMPLE - not measured data",
    )
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(mpl.text.Text) if t.get_text().strip() and t.get_visible()]
    texts = [t for t in texts if not is_hidden_tick(t, figure)]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
    # A box around slanted text is mostly empty; slanted names are kept apart by the distance of their lines.
    level = [(text, box) for text, box in zip(texts, boxes, strict=True) if text.get_rotation() in (0, 90)]
    for (one, a), (other, b) in combinations(level, 2):
        assert not a.overlaps(b), (one, other)
    slanted = [text for text in texts if text.get_rotation() not in (0, 90)]
    assert bool(slanted) == (labels == TASK_NAMES or n > 16)
    for axes in bar_axes(figure) if slanted else []:
        slot = np.diff(axes.transData.transform([(0, 0), (1, 0)])[:, 0])[0]
        assert slot * np.sin(np.pi / 4) > 6.0 / 72 * figure.dpi
        assert max(t.get_window_extent(renderer).y1 for t in axes.get_xticklabels()) < axes.bbox.y0


def is_hidden_tick(text, figure):
    """Whether a text is a tick label beyond the limits of its axis, which matplotlib keeps but does not draw."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if text in [label for tick in axis.get_major_ticks() for label in (tick.label1, tick.label2)]:
                drawn = [tick.label1 for tick in axis._update_ticks() if tick.label1.get_visible()]
                return text not in drawn or not axes.axison
    return False


@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (4, 4), (5, 3), (9, 3), (15, 4), (16, 4), (25, 5)])
def test_grid_is_read_row_by_row(n, columns):
    figure = make_figure([make_panel(f"region {i}") for i in range(n)])
    corners = [(-round(axes.get_position().y0, 6), round(axes.get_position().x0, 6)) for axes in bar_axes(figure)]
    assert corners == sorted(corners)
    assert len({x for _, x in corners}) == columns
    assert figure.get_size_inches()[0] <= plots.PAGE_WIDTH


def test_banner_note_and_legend():
    figure = make_figure([make_panel()], banner="SIMULATED", note="Stars: q <= .05.", legend={"2D": "#0077BB"})
    texts = " ".join(text.get_text() for text in figure.texts)
    assert "SIMULATED" in texts and "Stars: q <= .05." in texts and "2D" in texts
    assert "SIMULATED" not in " ".join(text.get_text() for text in make_figure([make_panel()]).texts)


# ---------------------------------------------------------------------------------------------------------------- Venn


def words_on(figure):
    return {word for axes in venn_axes(figure) for text in axes.texts for word in text.get_text().split() if word}


@pytest.mark.parametrize(("n_sets", "expected"), [(1, 0), (2, 2), (3, 2), (4, 0)])
def test_venn_diagrams_are_for_two_or_three_sets(n_sets, expected):
    figure = make_figure([make_panel("a", np.full(n_sets, 0.05)), make_panel("b", np.full(n_sets, 0.05))])
    assert len(venn_axes(figure)) == expected
    assert ("Venn diagrams" in " ".join(text.get_text() for text in figure.texts)) == bool(expected)


@pytest.mark.parametrize("parts", [(0.1, 0.02, 0.05), (0.1, 0.0, 0.05), (0.05, 0.05, 0.0)])
def test_areas_of_two_sets_are_the_parts(parts):
    figure = make_figure([make_panel(unique=parts[:2], parts=dict(zip(subsets_of(2), parts, strict=True)))])
    (axes,) = venn_axes(figure)
    areas = sorted(plots._area(patch.get_path()) for patch in axes.patches)
    np.testing.assert_allclose(areas[-2:] / np.sum(areas), sorted(parts)[-2:] / np.sum(parts), atol=0.02)
    assert "clipped" not in words_on(figure) and "distorted" not in words_on(figure)


def test_clipped_venn_says_so():
    panel = make_panel()
    assert "clipped" not in words_on(make_figure([panel]))
    negative = make_panel(parts={**panel.parts, frozenset({0, 1}): -0.001})
    assert "clipped" in words_on(make_figure([negative]))
    (axes,) = venn_axes(make_figure([make_panel(parts=dict.fromkeys(subsets_of(3), -0.01))]))
    assert not axes.patches


def test_venn_that_circles_cannot_draw_says_so():
    good = make_panel(parts=dict(zip(subsets_of(3), (0.1, 0.08, 0.09, 0.05, 0.05, 0.05, 0.1), strict=True)))
    assert "distorted" not in words_on(make_figure([good]))
    no_centre = make_panel(parts={**dict.fromkeys(subsets_of(3), 0.1), frozenset({0, 1, 2}): 0.0})
    assert "distorted" in words_on(make_figure([no_centre]))


def test_without_matplotlib_venn_the_figure_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    figure = make_figure([make_panel()])
    assert not venn_axes(figure)
    assert "matplotlib-venn, which is not installed" in " ".join(text.get_text() for text in figure.texts)


# ------------------------------------------------------------------------------------------------------- noise ceiling


def test_ceiling_panel_shows_explained_variance_and_its_bounds():
    ceiling = CeilingPanel(
        ["V1v", "V1d"],
        explained=np.array([0.27, -0.01]),
        error=np.array([0.06, np.nan]),
        lower=np.array([0.4, 0.1]),
        upper=np.array([0.47, 0.2]),
        chance=np.array([0.02, 0.03]),
    )
    axes = make_figure([make_panel()], ceiling=ceiling).axes[-1]
    band, bars = axes.patches[:2], axes.patches[2:]
    np.testing.assert_allclose([b.get_y() for b in band], ceiling.lower)
    np.testing.assert_allclose([b.get_y() + b.get_height() for b in band], ceiling.upper)
    np.testing.assert_allclose([b.get_height() for b in bars], ceiling.explained)
    np.testing.assert_allclose(axes.collections[0].get_segments()[0][:, 1], [0.21, 0.33])
    assert len(axes.collections[0].get_segments()) == 1
    np.testing.assert_allclose([line[0, 1] for line in axes.collections[1].get_segments()], ceiling.chance)
    assert axes.get_ylim()[0] < -0.01 and axes.get_ylim()[1] > 0.47
    assert axes.get_ylabel() == "R²"


# --------------------------------------------------------------------------------------------------------------- files


def test_files_are_reproducible_and_text_stays_text(tmp_path):
    for name, settings in (("a", {}), ("b", {"font.size": 30, "lines.linewidth": 9, "font.family": "monospace"})):
        with mpl.rc_context(settings):
            figure = make_figure([make_panel(), make_panel("hV4")], banner="SIMULATED")
            save_figure(figure, tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for text in ("SIMULATED", "hV4: R² = ", "semantic", "unique variance (adjusted R²)"):
        assert text in svg
    assert "<dc:date>" not in svg
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    np.testing.assert_allclose([width, height], 300 * figure.get_size_inches(), atol=1)


def test_figures_are_not_left_open():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    assert isinstance(make_figure([make_panel()]), Figure)
    assert plt.get_fignums() == before


def test_style_ends_with_the_drawing():
    with mpl.rc_context({"font.size": 17}):
        make_figure([make_panel()])
        assert mpl.rcParams["font.size"] == 17
