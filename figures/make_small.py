"""Make the pictures of this folder from the results of the four scripts: small copies of figure.png.

python figures/make_small.py [RESULTS]            RESULTS is `results` unless given
"""

import sys
from pathlib import Path

from PIL import Image

FIGURES = ("Fig1", "Fig2", "Fig3a", "Fig3b")
WIDTH = 1400  # pixels: sharp at the width of a README


def shrink(source: Path, target: Path, width: int = WIDTH) -> None:
    """Write a copy of a picture, at most `width` pixels wide; its colours stay as they are."""
    with Image.open(source) as picture:
        rgb = picture.convert("RGB")
        height = round(rgb.height * width / rgb.width)
        small = rgb.resize((width, height), Image.Resampling.LANCZOS) if rgb.width > width else rgb
        small.save(target, optimize=True)


def main() -> None:
    results = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    for figure in FIGURES:
        target = Path(__file__).parent / f"{figure}.png"
        shrink(results / figure / "figure.png", target)
        print(f"{target} {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
