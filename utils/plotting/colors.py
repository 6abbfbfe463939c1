"""The colours of networks, of their groups, and of locations without a winner: by default, and in the paper."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from models.tasks import BASELINE, TASKS, Model, group_names

# Groups stay apart under protanopia, deuteranopia and tritanopia (CIEDE2000 >= 23 between any two).
GROUP_COLORS = {"2D": "#0077BB", "3D": "#E69F00", "semantic": "#882255", BASELINE: "#2B2B2B"}
NOT_SIGNIFICANT_COLOR = "#C8C8C8"
BELOW_CEILING_COLOR = "#E8E8E8"
# Where a lead is not established. Those of the three groups stay apart from both greys, from each other and from the
# solid colours of the groups, also under protanopia and deuteranopia (CIEDE2000 > 10). A tint of the baseline's
# near-black would be one more grey, so it has a hue of its own.
_PALE_COLORS = {"2D": "#B4E2FF", "3D": "#FFD699", "semantic": "#DD9DCA", BASELINE: "#9FE8B8"}
_PALE_TINTS = {GROUP_COLORS[group].lower(): pale for group, pale in _PALE_COLORS.items()}

# For groups that the paper does not have: Paul Tol's "bright" and "vibrant" schemes, without the hues used above.
_OTHER_GROUP_COLORS = ("#228833", "#EE3377", "#66CCEE", "#CCBB44", "#009988", "#AA3377")

# One shade per network of the paper, in the order of its legends; neighbouring shades differ by CIEDE2000 >= 7.
_TASKS = sorted(TASKS, key=lambda task: task.plot_order)
_SHADES = (
    "#16128e", "#2439a0", "#3957b2", "#5373c4", "#6f8fd5", "#8dabe6", "#acc6f7",
    "#2b1a04", "#462e07", "#624509", "#7e5d0b", "#99780e", "#b49412", "#cdb21b", "#e5d228",
    "#8c2153", "#b63a61", "#e1546d",
    GROUP_COLORS[BASELINE],
)  # fmt: skip
_TASK_SHADES = {task.key: shade for task, shade in zip(_TASKS, _SHADES, strict=True)}

# The paper paints networks in ramps of its groups' colours (Fig 1), groups in full (Fig 3a), and everything without a
# winner in one grey.
_PUBLISHED_SHADES = (
    *(f"#0000{round(255 * (0.3 + 0.7 * i / 6)):02x}" for i in range(7)),
    *(f"#00{round(255 * (0.3 + 0.7 * i / 7)):02x}00" for i in range(8)),
    *("#{0:02x}00{0:02x}".format(round(255 * (0.5 + 0.5 * i / 2))) for i in range(3)),
    "#cccc00",
)
_PUBLISHED_GROUPS = {"2D": "#0000ff", "3D": "#00ff00", "semantic": "#ff00ff"}
_PUBLISHED_TINTS = {"2D": "#b3b3ff", "3D": "#b3ffb3", "semantic": "#ffb3ff", BASELINE: "#f2f2a6"}
_PUBLISHED_GREY = "#cccccc"
_PUBLISHED = {
    **{ours.lower(): published for ours, published in zip(_SHADES, _PUBLISHED_SHADES, strict=True)},
    **{GROUP_COLORS[group].lower(): published for group, published in _PUBLISHED_GROUPS.items()},
    NOT_SIGNIFICANT_COLOR.lower(): _PUBLISHED_GREY,
    BELOW_CEILING_COLOR.lower(): _PUBLISHED_GREY,
    # The paper has no pale places: these are tints of its own colours.
    **{_PALE_COLORS[group].lower(): tint for group, tint in _PUBLISHED_TINTS.items()},
}


def study_colors(table: Sequence[Model]) -> dict[str, str]:
    """Colour of every network of a study and of every group.

    Parameters
    ----------
    table : sequence of Model
        All networks of the study, also those that are not shown: the colour of a network depends on the others of its
        group, and should not change with the choice.

    Returns
    -------
    dict of str to str
        ``#rrggbb`` by name of a group and by key of a network. Networks have the colour that the user gave them, else
        that of the paper's networks, else a shade of their group's.
    """
    names = group_names(table)
    other = [name for name in names if name not in GROUP_COLORS]
    spare = {name: _OTHER_GROUP_COLORS[i % len(_OTHER_GROUP_COLORS)] for i, name in enumerate(other)}
    colors = {name: GROUP_COLORS.get(name) or spare[name] for name in names}
    for name in names:
        members = [model for model in table if model.group == name]
        if all(model.key in _TASK_SHADES for model in members):
            own = [_TASK_SHADES[model.key] for model in members]
        else:
            own = shades(colors[name], len(members))
        colors |= {model.key: model.color or shade for model, shade in zip(members, own, strict=True)}
    return colors


def shades(color: str, n: int) -> list[str]:
    """Shades of one hue.

    Parameters
    ----------
    color : str
        ``#rrggbb``.
    n : int

    Returns
    -------
    list of str
        `n` colours from dark to light; `color` itself where `n` is 1.
    """
    if n == 1:
        return [color]
    hue, _, saturation = colorsys.rgb_to_hls(*_channels(color))
    return [_hex(colorsys.hls_to_rgb(hue, 0.22 + 0.53 * i / (n - 1), saturation)) for i in range(n)]


def pale_color(color: str) -> str:
    """Tint of a group's colour, for places where the lead of its winner is not established.

    Parameters
    ----------
    color : str
        Colour of a group, ``#rrggbb``.

    Returns
    -------
    str
        ``#rrggbb``.
    """
    if color.lower() in _PALE_TINTS:
        return _PALE_TINTS[color.lower()]
    hue, lightness, saturation = colorsys.rgb_to_hls(*_channels(color))
    # Saturated, as what tells it from the greys is its hue.
    return _hex(colorsys.hls_to_rgb(hue, max(0.82, (lightness + 1.1) / 2), max(saturation, 0.8)))


def hatch_color(pale: str) -> str:
    """Colour of the hatching of pale places in print: of the hue of their tint, and dark enough to be seen on it.

    Parameters
    ----------
    pale : str
        A colour that `pale_color` gave, ``#rrggbb``.

    Returns
    -------
    str
        ``#rrggbb``.
    """
    hue, _, saturation = colorsys.rgb_to_hls(*_channels(pale))
    return _hex(colorsys.hls_to_rgb(hue, 0.35, saturation))


def _channels(color: str) -> tuple[float, float, float]:
    """Red, green and blue, 0 to 1."""
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _hex(rgb: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * channel):02x}" for channel in rgb)


def to_published_color(color: str) -> str:
    """Colour that the paper's figures have where this project draws `color`.

    Parameters
    ----------
    color : str
        Colour of a network, a group or a location without a winner, ``#rrggbb``.

    Returns
    -------
    str
        ``#rrggbb``; `color` itself if the paper has no such thing, such as a user's own network.
    """
    return _PUBLISHED.get(color.lower(), color)
