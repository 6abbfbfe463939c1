"""Figures of ROIs: the numbers in them, and that nothing lies over anything else."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from utils.plotting import page_layout, venn
from utils.plotting import roi_figure as module
from utils.plotting.colors import GROUP_COLORS
from utils.plotting.page_layout import PAGE_WIDTH, STYLES, Look, save_figure, shorten, text_width
from utils.plotting.roi_figure import PUBLISHED_BARS, RoiPanel, roi_figure

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
        "stars": ["filled" if value > 0.02 else "" for value in unique],
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
            stars=rng.choice(["", "filled", "hollow"], n_sets).tolist(),
            brackets=[pair for pair in combinations(range(n_sets), 2) if rng.random() < 0.7],
        )
        for i in range(int(rng.integers(1, 7)))
    ]


def make_figure(panels, *, title="Title", note="Note.", banner=None, style="default", legend=(), **options):
    return roi_figure(panels, Look(title, banner, style=style), note, legend=dict(legend), **options)


def all_text(figure):
    return " ".join(text.get_text() for text in figure.texts)


def bar_axes(figure):
    """Axes of the grid, in reading order."""
    return [axes for axes in figure.axes if axes.get_title(loc="left")]


def venn_axes(figure):
    return [axes for axes in figure.axes if axes.get_label() == "venn"]


def parts_axes(figure):
    """Axes of the stacked bars, row by row."""
    return [axes for axes in figure.axes if with_label(axes.patches, "part")]


def with_label(artists, label):
    return [artist for artist in artists if artist.get_label() == label]


def boxes_of(axes, renderer):
    """Bounding boxes by kind of artist, in pixels."""
    return {
        "bars": [bar.get_window_extent(renderer) for bar in axes.patches if isinstance(bar, Rectangle)],
        "errors": [path.get_extents(axes.transData) for lines in axes.collections for path in lines.get_paths()],
        "stars": [star.get_window_extent(renderer) for star in with_label(axes.lines, "star")],
        "brackets": [line.get_window_extent(renderer) for line in with_label(axes.lines, "bracket")],
    }


# ---------------------------------------------------------------------------------------------------------------- bars


@pytest.mark.slow
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
    panel = make_panel(stars=["filled", "", "filled"], brackets=[(0, 1), (2, 0)])
    (axes,) = bar_axes(make_figure([panel]))
    brackets = [
        (round(min(line.get_xdata())), round(max(line.get_xdata()))) for line in with_label(axes.lines, "bracket")
    ]
    assert brackets == [(0, 1), (0, 2)]  # narrow spans first
    stars = sorted(float(star.get_xdata()[0]) for star in with_label(axes.lines, "star"))
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


@pytest.mark.slow
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
    monkeypatch.setattr(module, "_STAR", -0.05)
    with pytest.raises(AssertionError):
        test_stars_and_brackets_overlap_nothing_and_stay_inside(0, 3)


# ----------------------------------------------------------------------------------------------------------------- page


TASK_NAMES = ["semantic segm", "2.5d segment", "3D keypoints"]
LONG_NAMES = ["a network with an extraordinarily long name", "Ünbreakable-name-of-thirty-letters", "m" * 40]


def make_ceiling(rois, **changes):
    content = {name: np.full(len(rois), 0.1) for name in ("explained", "error", "lower", "upper", "chance")}
    return pd.DataFrame({**content, **changes}, index=rois)


def busy_figure(panels, **options):
    rois = [panel.roi for panel in panels]
    return make_figure(
        panels,
        **{
            "title": "A rather long title that says what it shows, and for whom, and why, with what, and how",
            "note": "A note of many words. " * 12,
            "legend": {f"networks of kind {i}": color for i, color in enumerate(COLORS * 3)},
            "ceiling": make_ceiling(rois),
            "banner": "SIMULATED EXAMPLE - not measured data",
            **options,
        },
    )


def assert_nothing_overlaps(figure):
    """Texts are inside the page, at least 6 points high, and clear of each other; so are the panels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(mpl.text.Text) if t.get_text().strip() and t.get_visible()]
    hidden = hidden_ticks(figure)
    texts = [t for t in texts if id(t) not in hidden]
    boxes = [text.get_window_extent(renderer) for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1, text
        assert text.get_fontsize() >= 6.0, text
    # A box around slanted text is mostly empty; slanted names are kept apart by the distance of their lines.
    level = [(text, box) for text, box in zip(texts, boxes, strict=True) if text.get_rotation() in (0, 90)]
    for (one, a), (other, b) in combinations(level, 2):
        assert not a.overlaps(b), (one, other)
    panels = [(axes, axes.get_window_extent()) for axes in figure.axes]
    for (one, a), (other, b) in combinations(panels, 2):
        assert not a.overlaps(b), (one, other)
    outside = [(text, box) for text, box in level if text in figure.texts]
    assert not [(text, axes) for text, box in outside for axes, panel in panels if box.overlaps(panel)]
    for axes in bar_axes(figure):
        names = axes.get_xticklabels()
        assert max(name.get_window_extent(renderer).y1 for name in names) < axes.bbox.y0
        if names[0].get_rotation():
            slot = np.diff(axes.transData.transform([(0, 0), (1, 0)])[:, 0])[0]
            assert slot * np.sin(np.pi / 4) > 6.0 / 72 * figure.dpi
            below = min(name.get_window_extent(renderer).y0 for name in names)
            others = [box for text, box in level if text not in names and axes.bbox.x0 < box.x0 < axes.bbox.x1]
            assert not [box for box in others if below < box.y1 < axes.bbox.y0]


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 5, 16, 25])
@pytest.mark.parametrize("labels", [LABELS[:3], TASK_NAMES, LONG_NAMES])
def test_no_text_lies_over_another_or_is_cut(n, labels):
    negative = dict.fromkeys(subsets_of(3), -0.1)
    figure = busy_figure([make_panel(f"region {i}", labels=labels, parts=negative) for i in range(n)])
    assert_nothing_overlaps(figure)
    slanted = [text for axes in bar_axes(figure) for text in axes.get_xticklabels() if text.get_rotation() == 45]
    assert bool(slanted) == (labels == LONG_NAMES)


EXTREMES = {
    "long names of ROIs": {"roi": "the parahippocampal place area of both hemispheres together"},
    "more negative than positive": {"unique": (-0.3, 0.02, -0.25)},
    "near zero": {"unique": (1e-9, -1e-9, 3e-10), "se": np.full(3, 1e-10), "total": 1e-9},
    "zero": {"unique": (0.0, 0.0, 0.0), "se": np.zeros(3), "total": 0.0, "parts": dict.fromkeys(subsets_of(3), 0.0)},
    "negative total": {"total": -0.4, "parts": dict.fromkeys(subsets_of(3), -0.4 / 7)},
    "huge": {"unique": (0.99, 0.98, 0.97), "se": np.full(3, 0.5)},
    "every pair of five": {"unique": np.linspace(-0.2, 0.2, 5), "brackets": list(combinations(range(5), 2))},
    "names with dollar signs": {"roi": "$V_1$", "labels": ["$a$", "b_{2}", "c$"]},
}


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("extreme", EXTREMES)
def test_extreme_inputs_overlap_nothing(extreme, style):
    panels = [make_panel(**{"roi": f"region {i}", **EXTREMES[extreme]}) for i in range(5)]
    assert_nothing_overlaps(busy_figure(panels, style=style))


@pytest.mark.parametrize("missing", ["lower", "upper", "explained", "error"])
def test_missing_values_of_the_ceiling_leave_the_rest(missing):
    gaps = {missing: np.array([0.1, np.nan, 0.2])}
    figure = busy_figure([make_panel(roi) for roi in "abc"], ceiling=make_ceiling(list("abc"), **gaps))
    assert np.isfinite(figure.axes[-1].get_ylim()).all()
    assert_nothing_overlaps(figure)


def test_long_names_keep_their_beginning_and_their_end():
    cut = shorten("a network with an extraordinarily long name", 0.8, 6.0)
    assert cut.startswith("a net") and "…" in cut and cut.endswith("name") and text_width(cut, 6.0) <= 0.8
    assert shorten("2D edges", 0.8, 6.0) == "2D edges"


def hidden_ticks(figure):
    """Tick labels beyond the limits of their axes, which matplotlib keeps but does not draw."""
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            drawn = [tick.label1 for tick in axis._update_ticks()] if axes.axison else []
            kept = [label for tick in axis.get_major_ticks() for label in (tick.label1, tick.label2)]
            hidden |= {id(label) for label in kept} - {id(label) for label in drawn}
    return hidden


@pytest.mark.slow
@pytest.mark.parametrize(("n", "columns"), [(1, 1), (2, 2), (4, 4), (5, 3), (9, 3), (15, 4), (16, 4), (25, 5)])
def test_grid_is_read_row_by_row(n, columns):
    figure = make_figure([make_panel(f"region {i}") for i in range(n)])
    corners = [(-round(axes.get_position().y0, 6), round(axes.get_position().x0, 6)) for axes in bar_axes(figure)]
    assert corners == sorted(corners)
    assert len({x for _, x in corners}) == columns
    assert figure.get_size_inches()[0] <= PAGE_WIDTH


def test_banner_note_and_legend():
    figure = make_figure([make_panel()], banner="SIMULATED", note="Stars: q <= .05.", legend={"2D": "#0077BB"})
    texts = " ".join(text.get_text() for text in figure.texts)
    assert "SIMULATED" in texts and "Stars: q <= .05." in texts and "2D" in texts
    assert "SIMULATED" not in " ".join(text.get_text() for text in make_figure([make_panel()]).texts)


# ------------------------------------------------------------------------------------------------------ parts, paper


SIGNED = dict(zip(subsets_of(3), (0.1, -0.02, 0.05, 0.04, -0.03, 0.02, 0.2), strict=True))


@pytest.mark.parametrize("n_sets", [2, 3, 4, 5])
def test_stacked_bars_show_every_signed_part(n_sets, rng):
    parts = {subset: float(rng.normal(0.02, 0.05)) for subset in subsets_of(n_sets)}
    total = sum(parts.values())
    panel = make_panel(unique=[parts[frozenset({i})] for i in range(n_sets)], parts=parts, total=total)
    (axes,) = parts_axes(make_figure([make_panel(unique=np.full(n_sets, 0.1)), panel]))
    drawn = [part for part in with_label(axes.patches, "part") if part.get_x() > 0.5]
    np.testing.assert_allclose([part.get_height() for part in drawn], list(parts.values()))
    for sign in (True, False):  # each starts where the last one of its sign ended
        ends = [(part.get_y(), part.get_y() + part.get_height()) for part in drawn if (part.get_height() > 0) == sign]
        np.testing.assert_allclose([start for start, _ in ends], [0.0, *(end for _, end in ends)][: len(ends)])
    totals = axes.collections[-1].get_segments()
    np.testing.assert_allclose([line[0, 1] for line in totals][1], total)
    low, high = axes.get_ylim()
    assert low < sum(part for part in parts.values() if part < 0)
    assert high > sum(part for part in parts.values() if part > 0)


def test_shared_parts_are_divided_among_the_colours_of_their_sets():
    (axes,) = parts_axes(make_figure([make_panel(parts=SIGNED)]))
    filled = [bar for bar in axes.patches if bar.get_facecolor()[3] > 0]
    by_part = {}
    for bar in sorted(filled, key=lambda bar: bar.get_x()):
        by_part.setdefault(round(bar.get_height(), 6), []).append(mpl.colors.to_hex(bar.get_facecolor()))
    assert by_part == {part: [COLORS[i].lower() for i in sorted(subset)] for subset, part in SIGNED.items()}


@pytest.mark.parametrize(("n_sets", "noted"), [(1, False), (6, True)])
def test_parts_of_one_or_of_many_sets_are_left_out(n_sets, noted):
    n = range(n_sets)
    panel = make_panel(
        unique=np.full(n_sets, 0.1), labels=[f"s{i}" for i in n], colors=["#123456" for _ in n], parts={}
    )
    figure = make_figure([panel])
    assert not parts_axes(figure)
    assert ("two to five sets" in all_text(figure)) == noted


@pytest.mark.slow
def test_many_rois_have_their_parts_in_two_rows():
    rows = parts_axes(make_figure([make_panel(f"region {i}", parts=SIGNED) for i in range(25)]))
    assert [len(axes.get_xticks()) for axes in rows] == [13, 12]
    assert len({axes.get_ylim() for axes in rows}) == 1


def test_published_look():
    colors = [GROUP_COLORS["2D"], GROUP_COLORS["semantic"], "#123456"]
    panels = [make_panel(roi, colors=colors) for roi in ("mine", "V3a", "V1v", "hV4", "LO2")]
    ceiling = make_ceiling(["V3a", "V1v"], explained=np.array([0.2, 0.3]), error=np.full(2, np.nan))
    figure = make_figure(panels, legend={"2D": colors[0]}, ceiling=ceiling, style="paper")
    assert [axes.get_title(loc="left").split(":")[0] for axes in bar_axes(figure)] == [
        "V1v",
        "hV4",
        "LO2",
        "V3a",
        "mine",
    ]
    assert len({axes.get_position().x0 for axes in bar_axes(figure)}) == 4
    first = bar_axes(figure)[0]
    assert first.get_ylim() == (0.0, 0.45)
    assert "extended" not in all_text(figure)
    drawn = [mpl.colors.to_hex(bar.get_facecolor()) for bar in first.patches]
    assert drawn == ["#0000ff", "#ff00ff", "#123456"]  # what the paper does not know keeps its colour
    assert [label.get_text() for label in figure.axes[-1].get_xticklabels()] == ["V1v", "V3a"]
    assert [bar.get_height() for bar in figure.axes[-1].patches[2:]] == [0.3, 0.2]


@pytest.mark.parametrize(
    ("name", "high", "ticks", "hatches", "edge"),
    [
        ("Fig2", 0.45, [0, 0.1, 0.2, 0.3, 0.4], ["////", "\\\\\\\\", "||||"], "#b3b3b3"),
        ("Fig3b", 0.32, [0, 0.1, 0.2], [None] * 3, "#222222"),
    ],
)
def test_each_figure_has_its_published_axis_hatches_and_edges(name, high, ticks, hatches, edge):
    (axes,) = bar_axes(make_figure([make_panel()], style="paper", figure=name))
    assert axes.get_ylim() == (0.0, high)
    np.testing.assert_allclose(axes.get_yticks(), ticks)
    assert [bar.get_hatch() or None for bar in axes.patches] == hatches
    assert {mpl.colors.to_hex(bar.get_edgecolor()) for bar in axes.patches} == {edge}
    (plain,) = bar_axes(make_figure([make_panel()], figure=name))
    assert not any(bar.get_hatch() for bar in plain.patches)


@pytest.mark.parametrize("name", PUBLISHED_BARS)
@pytest.mark.parametrize("unique", [(0.5, 0.1, 0.1), (0.1, -0.2, 0.1)])
def test_published_limits_never_cut_anything(unique, name):
    figure = make_figure([make_panel(unique=unique)], style="paper", figure=name)
    low, high = bar_axes(figure)[0].get_ylim()
    assert low <= min(unique) and high >= max(*unique, PUBLISHED_BARS[name].limits[1])
    assert "is extended here" in all_text(figure)


# ---------------------------------------------------------------------------------------------------------------- Venn


def words_on(figure):
    """What is said to be wrong with diagrams."""
    return {line for text in figure.texts for line in text.get_text().split("\n")} & {
        "clipped",
        "distorted",
        "not drawn",
    }


@pytest.mark.parametrize(("n_sets", "expected"), [(1, 0), (2, 2), (3, 2), (4, 0)])
def test_venn_diagrams_are_for_two_or_three_sets(n_sets, expected):
    figure = make_figure([make_panel("a", np.full(n_sets, 0.05)), make_panel("b", np.full(n_sets, 0.05))])
    assert len(venn_axes(figure)) == expected
    assert ("Circles:" in all_text(figure)) == bool(expected)


@pytest.mark.parametrize("parts", [(0.1, 0.02, 0.05), (0.1, 0.0, 0.05), (0.05, 0.05, 0.0)])
def test_areas_of_two_sets_are_the_parts(parts):
    figure = make_figure([make_panel(unique=parts[:2], parts=dict(zip(subsets_of(2), parts, strict=True)))])
    (axes,) = venn_axes(figure)
    areas = sorted(venn.area_of(patch.get_path()) for patch in axes.patches)
    np.testing.assert_allclose(areas[-2:] / np.sum(areas), sorted(parts)[-2:] / np.sum(parts), atol=0.02)
    assert "clipped" not in words_on(figure) and "distorted" not in words_on(figure)


def test_clipped_venn_says_so():
    panel = make_panel()
    assert "clipped" not in words_on(make_figure([panel]))
    negative = make_panel(parts={**panel.parts, frozenset({0, 1}): -0.001})
    assert "clipped" in words_on(make_figure([negative]))
    nothing_positive = make_figure([make_panel(parts=dict.fromkeys(subsets_of(3), -0.01))])
    assert words_on(nothing_positive) == {"clipped", "not drawn"}
    assert not venn_axes(nothing_positive)[0].patches


def test_venn_that_circles_cannot_draw_says_so():
    good = make_panel(parts=dict(zip(subsets_of(3), (0.1, 0.08, 0.09, 0.05, 0.05, 0.05, 0.1), strict=True)))
    assert "distorted" not in words_on(make_figure([good]))
    no_centre = make_panel(parts={**dict.fromkeys(subsets_of(3), 0.1), frozenset({0, 1, 2}): 0.0})
    assert "distorted" in words_on(make_figure([no_centre]))


def test_without_matplotlib_venn_the_figure_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(venn, "find_spec", lambda name: None)
    figure = make_figure([make_panel()])
    assert not venn_axes(figure)
    assert "matplotlib-venn, which is not installed" in " ".join(text.get_text() for text in figure.texts)


# ------------------------------------------------------------------------------------------------------- noise ceiling


def test_ceiling_panel_shows_explained_variance_and_its_bounds():
    ceiling = make_ceiling(
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


# --------------------------------------------------------------------------------------------------------------- files


def test_files_are_reproducible_and_text_stays_text(tmp_path):
    for name, settings in (("a", {}), ("b", {"font.size": 30, "lines.linewidth": 9, "font.family": "monospace"})):
        with mpl.rc_context(settings):
            figure = make_figure([make_panel(), make_panel("hV4")], banner="SIMULATED")
            save_figure(figure, tmp_path / f"{name}.svg", tmp_path / f"{name}.png")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    for text in ("SIMULATED", "hV4: R² = ", "semantic", "Unique variance (adjusted R²)"):
        assert text in svg
    assert "<dc:date>" not in svg
    width, height = struct.unpack(">II", (tmp_path / "a.png").read_bytes()[16:24])
    np.testing.assert_allclose([width, height], 300 * figure.get_size_inches(), atol=1)


@pytest.mark.slow
def test_files_are_the_same_from_another_process(tmp_path):
    script = (
        "import sys; from tests.test_plots import *\n"
        "figure = busy_figure([make_panel(), make_panel('b', parts=SIGNED)])\n"
        "save_figure(figure, sys.argv[1] + '.svg', sys.argv[1] + '.png')"
    )
    for name in "ab":
        environment = {**os.environ, "PYTHONHASHSEED": str(ord(name)), "PYTHONPATH": f".{os.pathsep}tests"}
        root = Path(__file__).parents[1]
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=True, cwd=root, env=environment)
    for suffix in (".svg", ".png"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_figures_are_not_left_open():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    assert isinstance(make_figure([make_panel()]), Figure)
    assert plt.get_fignums() == before


def test_style_ends_with_the_drawing():
    with mpl.rc_context({"font.size": 17}):
        make_figure([make_panel()])
        assert mpl.rcParams["font.size"] == 17


# --------------------------------------------------------------------------------------------------- stars and shares


def stars_of(axes):
    """Face and edge of the stars over bars, from left to right; brackets have asterisks between bars or over them."""
    own = [star for star in with_label(axes.lines, "star") if star.get_marker() == "*"]
    return [star.get_markerfacecolor() for star in sorted(own, key=lambda star: star.get_xdata()[0])]


@pytest.mark.parametrize("style", STYLES)
def test_filled_and_hollow_stars_are_told_apart_and_explained(style):
    figure = make_figure([make_panel(stars=["hollow", "", "filled"])], style=style)
    assert stars_of(bar_axes(figure)[0]) == ["white", "black"]
    assert "above the minimum effect" in all_text(figure) and "above zero only" in all_text(figure)


@pytest.mark.parametrize("style", STYLES)
def test_where_all_stars_are_filled_they_are_asterisks(style):
    figure = make_figure([make_panel(stars=["filled", "", "filled"], brackets=[])], style=style)
    assert [star.get_marker() for star in with_label(bar_axes(figure)[0].lines, "star")] == [(5, 2, 0)] * 2
    assert "minimum effect" not in all_text(figure)


@pytest.mark.parametrize("n", [1, 4, 25])
def test_share_of_the_explainable_variance_stands_clear_of_everything(n):
    panels = [make_panel(f"region {i}", share=1.034) for i in range(n)]
    figure = make_figure([*panels, make_panel("no share")])
    texts = [text.get_text() for text in figure.texts]
    assert texts.count("103 % of explainable variance") == n
    assert_nothing_overlaps(figure)
    assert "explainable" not in all_text(make_figure([make_panel()]))


@pytest.mark.parametrize("published", [True, False])
def test_panels_are_what_the_fit_says(published):
    from types import SimpleNamespace as Some

    three = np.array([[0], [1], [2]])
    models = [Some(key=name, label=name) for name in "abc"]
    parts, one = np.full((7, 1), 0.1), np.array([0.7])
    fit = Some(
        partition=Some(
            sets=three, unique=0.1 * three, se=0.1 * three, total=one, parts=parts, reliability=one,
            total_share=np.array([0.5]),
        ),
        settings=Some(alpha=0.05, as_published=published),
        stars=np.array([["hollow"], ["filled"], [""]]),
        differences=Some(q=np.array([[0.01], [0.9], [0.9]]), pairs=[(0, 1), (0, 2), (1, 2)]),
        rois=Some(names=["V1v"]),
        models=Some(models=models),
    )  # fmt: skip
    (panel,) = module.roi_panels(fit, dict.fromkeys("abc", "#123456"))
    assert panel.stars == ["hollow", "filled", ""]
    assert np.isnan(panel.share) if published else panel.share == 0.5
    assert panel.brackets == [(0, 1)]


@pytest.mark.parametrize(("labels", "missing"), [(("縁", "物体認識", "形状"), True), (("Edges", "é", "Straße"), False)])
def test_labels_that_no_font_has_are_one_warning(tmp_path, monkeypatch, recwarn, labels, missing):
    monkeypatch.setattr(page_layout, "_FALLBACK_FONTS", ())
    page_layout._fonts.cache_clear()
    page_layout._without_glyph.cache_clear()
    figure = make_figure([make_panel(labels=labels)])
    save_figure(figure, tmp_path / "a.svg", tmp_path / "a.png")
    texts = [str(warning.message) for warning in recwarn]
    assert len(texts) == missing
    if missing:
        assert texts[0].startswith("no font of this machine has the characters 体形物状縁認識 of the labels")
    page_layout._fonts.cache_clear()
    page_layout._without_glyph.cache_clear()
