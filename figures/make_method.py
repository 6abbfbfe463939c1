"""Draw the method in one picture: images -> networks and brain -> RDMs -> regression -> map.

python figures/make_method.py          writes figures/method.png

A schematic: RDMs are simulated from a fixed seed, images, brain and map are drawn by hand. The bars are what the
regression of `utils.stats` makes of the RDMs shown.
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from matplotlib.path import Path as Outline
from PIL import Image
from scipy.interpolate import CubicSpline

from utils.rdm import correlation_rdm, expand
from utils.stats.regression import orthonormal_basis, project, unique_adjusted_r2

TARGET = Path(__file__).parent / "method.png"
WIDTH, HEIGHT = 11.0, 4.5  # inches; the axes of the whole picture use them as units
GROUPS = {"2D": "#0077BB", "3D": "#E69F00", "semantic": "#882255"}
INSIDE = 0.045  # how far dots stay from the outline
INK, FAINT, GREY = "#2B2B2B", "#6A6A6A", "#C8C8C8"
N_IMAGES, N_UNITS = 12, 80
# Left hemisphere from the side, in a box of 2 x 1.4: front to the left, clockwise from there.
BRAIN = [(0.03, 0.72), (0.10, 1.08), (0.42, 1.32), (0.90, 1.40), (1.40, 1.30), (1.78, 1.02), (1.97, 0.66),
         (1.90, 0.42), (1.62, 0.36), (1.25, 0.26), (0.86, 0.06), (0.52, 0.06), (0.40, 0.30), (0.14, 0.40)]  # fmt: skip
SULCI = [[(0.44, 0.36), (0.80, 0.62), (1.30, 0.76)], [(0.86, 1.38), (0.84, 1.02), (0.66, 0.72)],
         [(1.30, 1.32), (1.22, 1.06), (1.36, 0.88)]]  # fmt: skip
# Searchlights that share the colour of a group: centre of the patch, its half axes, its group.
PATCHES = [
    ((1.82, 0.60), (0.17, 0.21), "2D"),
    ((1.56, 0.96), (0.24, 0.20), "3D"),
    ((1.34, 0.44), (0.26, 0.13), "semantic"),
]


def simulate(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Condensed RDMs of a network of each group, two layers each, and of a searchlight that mostly follows the 3D one.

    The networks sort the images differently: along a circle (2D), into halves (3D), and into four classes (semantic).
    """
    image = np.arange(N_IMAGES)
    latent = {
        "2D": np.stack([np.cos(np.pi * image / 6), np.sin(np.pi * image / 6)], axis=1),
        "3D": np.eye(2)[image * 2 // N_IMAGES],
        "semantic": np.eye(4)[image % 4],
    }
    latent = {group: values / values.std() for group, values in latent.items()}

    def rdm(features: np.ndarray, noise: float) -> np.ndarray:
        patterns = features @ rng.standard_normal((features.shape[1], N_UNITS))
        return correlation_rdm(patterns + noise * rng.standard_normal(patterns.shape))

    networks = {group: np.stack([rdm(latent[group], noise) for noise in (1.3, 0.6)]) for group in GROUPS}
    mixture = np.hstack([0.5 * latent["2D"], latent["3D"], 0.75 * latent["semantic"]])
    return networks, rdm(mixture, 0.8)


def smooth(points: list[tuple[float, float]], closed: bool) -> np.ndarray:
    """A smooth curve through points."""
    given = np.array(points + points[:1] if closed else points)
    curve = CubicSpline(np.arange(len(given)), given, bc_type="periodic" if closed else "natural")
    return curve(np.linspace(0, len(given) - 1, 200))


def draw_brain(ax: Axes, x: float, y: float, scale: float, patches: bool) -> None:
    """A hemisphere with its lower left corner at (x, y); coloured patches, or one searchlight."""
    place = np.array([x, y])
    edge = place + scale * smooth(BRAIN, closed=True)
    ax.add_patch(Polygon(edge, facecolor="#EFEFEF", edgecolor=INK, linewidth=1.3, zorder=2))
    if patches:
        grid = np.stack(np.meshgrid(np.arange(0, 2, 0.07), np.arange(0, 1.45, 0.07)), axis=-1).reshape(-1, 2)
        for point in grid[Outline(smooth(BRAIN, closed=True)).contains_points(grid, radius=INSIDE)]:
            inside = [group for centre, axes, group in PATCHES if (((point - centre) / axes) ** 2).sum() < 1]
            at = place + scale * point
            ax.add_patch(Circle(at, scale * 0.03, color=GROUPS[inside[0]] if inside else GREY, linewidth=0, zorder=3))
    for sulcus in SULCI:
        ax.plot(*(place + scale * smooth(sulcus, closed=False)).T, color=FAINT, linewidth=1, zorder=4)
    if not patches:
        at = place + scale * np.array([1.56, 0.96])
        ax.add_patch(Circle(at, 0.16 * scale, facecolor="white", edgecolor=INK, linewidth=1.6, zorder=5))


def rounded(x: float, y: float, width: float, height: float, corner: float = 0.05, **style: object) -> FancyBboxPatch:
    box = f"round,pad=0,rounding_size={corner}"
    return FancyBboxPatch((x, y), width, height, boxstyle=box, **{"edgecolor": INK, "linewidth": 1.2, **style})


def draw_images(ax: Axes, x: float, y: float) -> None:
    """A pile of pictures, a house and a tree on the uppermost."""
    for k in range(3, 0, -1):
        ax.add_patch(rounded(x + 0.17 * k, y + 0.17 * k, 1, 1, facecolor="#DDE3E8", zorder=5 - k))
    frame = ax.add_patch(rounded(x, y, 1, 1, facecolor="#DCE6EE", zorder=5))
    for patch in (
        Polygon([(x, y), (x + 1, y), (x + 1, y + 0.38), (x, y + 0.3)], color="#B9B9B9", linewidth=0),
        Circle((x + 0.78, y + 0.76), 0.11, color="white", linewidth=0),
        Rectangle((x + 0.16, y + 0.2), 0.4, 0.32, color="#7A7A7A"),
        Polygon([(x + 0.1, y + 0.52), (x + 0.62, y + 0.52), (x + 0.36, y + 0.76)], color="#4A4A4A"),
        Ellipse((x + 0.8, y + 0.46), 0.2, 0.32, color="#5E6E5E"),
    ):
        ax.add_patch(patch).set(zorder=6)
        patch.set_clip_path(frame)
    ax.add_patch(rounded(x, y, 1, 1, facecolor="none", zorder=7))


def draw_network(ax: Axes, x: float, y: float, color: str) -> None:
    """Layers of a network, from large to compact."""
    for k, height in enumerate((0.62, 0.5, 0.38, 0.28)):
        ax.add_patch(rounded(x + 0.27 * k, y - height / 2, 0.13, height, 0.03, facecolor=color, linewidth=0.8))


def draw_rdm(ax: Axes, x: float, y: float, size: float, rdm: np.ndarray, color: str = INK) -> None:
    ax.imshow(
        expand(rdm), extent=(x, x + size, y, y + size), cmap="Greys", vmin=-0.2, vmax=1.7, zorder=4, aspect="auto"
    )
    ax.plot([x, x + size, x + size, x, x], [y, y, y + size, y + size, y], color=color, linewidth=1.8, zorder=5)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, linewidth=1.2, zorder=8))


def label(ax: Axes, x: float, y: float, text: str, size: float = 9, **more: object) -> None:
    ax.text(x, y, text, **{"fontsize": size, "color": INK, "ha": "center", "va": "center", "zorder": 9, **more})


def draw_bars(ax: Axes, x: float, y: float, unique: dict[str, float], top: float) -> None:
    """Unique variance of each group; the axis ends at `top`."""
    width, height = 1.75, 1.5
    ax.plot([x, x, x + width], [y + height, y, y], color=INK, linewidth=1, zorder=3)
    for k, (group, value) in enumerate(unique.items()):
        left, tall = x + 0.18 + 0.55 * k, height * max(value, 0) / top
        ax.add_patch(Rectangle((left, y), 0.36, tall, facecolor=GROUPS[group], edgecolor=INK, linewidth=0.8))
        label(ax, left + 0.18, y - 0.14, group, 8)
    ax.text(x - 0.1, y + height / 2, "unique variance", rotation=90, fontsize=8, color=INK, ha="center", va="center")


def main() -> None:
    rng = np.random.default_rng(7)
    networks, brain = simulate(rng)
    basis = orthonormal_basis(list(networks.values()))
    projected = project(basis, brain[None])
    unique = dict(zip(GROUPS, unique_adjusted_r2(basis)(projected)[:, 0], strict=True))
    plt.rcParams.update({"font.family": "DejaVu Sans"})
    figure = plt.figure(figsize=(WIDTH, HEIGHT))
    ax = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.set_axis_off()
    heads = ((0.95, "Images"), (3.05, "Networks and brain"), (5.3, "RDMs"), (7.55, "Regression"), (9.85, "Map"))
    for k, (x, name) in enumerate(heads, start=1):
        label(ax, x, 4.24, f"{k}  {name}", 11.5, weight="bold")

    draw_images(ax, 0.2, 1.75)
    arrow(ax, (1.76, 2.75), (2.02, 2.9))
    arrow(ax, (1.76, 1.75), (2.12, 1.45))
    for k, (group, rdms) in enumerate(networks.items()):
        y = 3.6 - 0.72 * k
        label(ax, 2.72, y, group, 9, ha="right")
        draw_network(ax, 2.82, y, GROUPS[group])
        arrow(ax, (3.88, y), (4.5, y))
        for layer, rdm in enumerate(rdms):
            draw_rdm(ax, 4.65 + 0.7 * layer, y - 0.28, 0.56, rdm, GROUPS[group])
    draw_brain(ax, 2.15, 0.62, 0.8, patches=False)
    arrow(ax, (3.88, 1.25), (4.5, 1.25))
    draw_rdm(ax, 4.83, 0.72, 0.92, brain)

    ax.plot([6.02, 6.12, 6.12, 6.02], [3.88, 3.88, 0.72, 0.72], color=INK, linewidth=1.2)
    arrow(ax, (6.12, 2.31), (6.4, 2.31))
    label(ax, 7.55, 3.55, "brain RDM  ≈  Σ weight × network RDM", 8.5)
    draw_bars(ax, 6.72, 1.5, unique, 1.05 * max(unique.values()))
    arrow(ax, (8.5, 2.31), (8.78, 2.31))
    draw_brain(ax, 8.8, 1.55, 1.0, patches=True)
    for name, (x, y) in {"3D": (10.66, 2.72), "2D": (10.82, 2.46), "semantic": (10.44, 1.7)}.items():
        label(ax, x, y, name, 8.5)

    captions = {
        0.95: "the same images for\nnetworks and participants",
        3.05: "activations of network layers; fMRI\nresponses in a searchlight (circle) or ROI",
        5.28: "one row and column per image;\ndark: dissimilar (1 − correlation)",
        7.55: "what each group explains\nthat the others do not",
        9.85: "colour of the strongest group,\nwhere significant; others grey",
    }
    for x, text in captions.items():
        label(ax, x, 0.36, text, 7.5, color=FAINT)
    label(
        ax, WIDTH - 0.12, 0.07, "Schematic: simulated RDMs; brain and map drawn by hand.", 6.5, color=FAINT, ha="right"
    )
    figure.savefig(TARGET, dpi=150)
    with Image.open(TARGET) as picture:
        picture.convert("RGB").quantize(128).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
