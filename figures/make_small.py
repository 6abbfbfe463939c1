"""Make the pictures of this folder from the results of the four scripts.

python figures/make_small.py [RESULTS]            RESULTS is `results` unless given

Small copies of figure.png, and, where there is a Chromium, a picture of the brain map of Fig 1 in it.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

FIGURES = ("Fig1", "Fig2", "Fig3a", "Fig3b")
WIDTH = 1100  # pixels: sharp at the width of a README


def shrink(source: Path, target: Path, width: int = WIDTH) -> None:
    """Write a copy of a picture, at most `width` pixels wide; its colours stay as they are."""
    with Image.open(source) as picture:
        rgb = picture.convert("RGB")
        height = round(rgb.height * width / rgb.width)
        small = rgb.resize((width, height), Image.Resampling.LANCZOS) if rgb.width > width else rgb
        small.save(target, optimize=True)


def photograph(page: Path, target: Path) -> None:
    """A picture of a page as a browser shows it."""
    browser = next((found for name in ("chromium", "google-chrome") if (found := shutil.which(name))), None)
    if browser is None:
        print(f"{target} stays as it is: there is no Chromium to open {page} in")
        return
    with tempfile.TemporaryDirectory() as profile:
        picture = Path(profile) / "page.png"
        # The page draws with WebGL, here in software.
        drawing = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-gpu"]
        quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        shot = ["--hide-scrollbars", "--window-size=1400,820", "--virtual-time-budget=15000", f"--screenshot={picture}"]
        command = [browser, "--headless", "--no-sandbox", f"--user-data-dir={profile}", *drawing, *quiet, *shot]
        subprocess.run([*command, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
        shrink(picture, target)
    print(f"{target} {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    results = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    for figure in FIGURES:
        target = Path(__file__).parent / f"{figure}.png"
        shrink(results / figure / "figure.png", target)
        print(f"{target} {target.stat().st_size / 1000:.0f} kB")
    photograph(results / "Fig1" / "brain_map.html", Path(__file__).parent / "brain_map.png")


if __name__ == "__main__":
    main()
