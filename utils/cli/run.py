"""One run of a figure script: its data and resources, the files that it writes, its record and report."""

from __future__ import annotations

import argparse
import time
import warnings
import webbrowser
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property, partial, wraps
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pandas as pd

from utils import InputError
from utils.analysis import paper
from utils.analysis.predictors import check_people
from utils.analysis.rois import RoiFit
from utils.analysis.searchlights import SearchlightFit
from utils.analysis.settings import Settings
from utils.cli.command import choose_device, execute, progress, workers
from utils.cli.options import NO_SURFACE, figure_parser, parse, settings_of
from utils.datasets.layout import Kind, Sources, holds_release, locate
from utils.datasets.models import ModelRdms, load_models
from utils.datasets.rois import Atlas, RoiRdms, load_atlas, load_rois
from utils.datasets.searchlights import SearchlightRdms, load_searchlights
from utils.io.data_folder import RECORD, SearchlightFolder, default_data
from utils.io.interim import Interim
from utils.io.output import INTERIM, read_record, staged, write_arrays, write_table
from utils.io.provenance import fingerprint, provenance
from utils.io.spaces import is_mni
from utils.parallel.resources import Resources
from utils.parallel.threads import use_threads
from utils.plotting.brain_maps import save_maps, save_montage, warn_of_space
from utils.plotting.colors import study_colors
from utils.plotting.label_maps import LabelMap, Map, RoiLocations
from utils.plotting.page_layout import Look, save_figure
from utils.plotting.roi_figure import RoiPanel, roi_figure
from utils.plotting.surface import DEFAULT_SURFACE, Surface, known_brains, sample
from utils.rdms.discs import load_geometry
from utils.rdms.stimuli import few
from utils.rdms.surface_labels import SurfaceLabels
from utils.rdms.vertices import FSAVERAGE, Vertices
from utils.reporting import report
from utils.reporting.notes import found

SIMULATED = "SIMULATED EXAMPLE - not measured data"


def figure_script(
    figure: str, *, kind: Kind, title: str, help: str
) -> Callable[[Callable[[FigureRun], None]], Callable[[], NoReturn]]:
    """Decorator that makes a figure script of its `main`: without arguments, it then runs from the command line.

    Parameters
    ----------
    figure, kind, title : str
        As for `FigureRun`.
    help : str
        Docstring of the script, shown by --help.
    """

    def decorate(main: Callable[[FigureRun], None]) -> Callable[[], NoReturn]:
        @wraps(main)
        def script() -> NoReturn:
            parser = figure_parser(figure, kind, help)
            options = parse(parser)
            use_threads(options.threads)
            run = FigureRun(figure, kind, title, options)
            execute(lambda: run.complete(main), parser, run.warnings.append)

        return script

    return decorate


class FigureRun:
    """What a figure script needs besides its analysis.

    Parameters
    ----------
    figure : str
        Name of the figure, which is also that of its result folder.
    kind : {"searchlight", "roi"}
        What the figure is drawn from.
    title : str
        Of figure and pages.
    options : Namespace
        Of the command line.

    Attributes
    ----------
    warnings : list of str
        Warnings so far, for the report.
    """

    def __init__(self, figure: str, kind: Kind, title: str, options: argparse.Namespace) -> None:
        self.figure, self.kind, self.title = figure, kind, title
        self.warnings: list[str] = []
        self._options = options
        self._started = time.time()
        self._progress = partial(progress, options=options)
        self._exit = ExitStack()
        self._space: str | None = None  # of the maps, once they are drawn

    def complete(self, main: Callable[[FigureRun], None]) -> None:
        """Do what the script does, then write the report and move all results into place."""
        with self._exit:
            folder, options = self._options.results / self.figure, self._options
            self._outputs = self._exit.enter_context(staged(folder, at_once=True))
            self._interim = Interim(folder / INTERIM, fresh=options.fresh, tell=partial(print, flush=True))
            self._device = choose_device(self._options)
            self._check_atlas()
            main(self)
            self._publish()
            self._interim.remove()

    @cached_property
    def settings(self) -> Settings:
        """Everything that changes numbers."""
        return settings_of(self._options)

    # ---------------------------------------------------------------------------------------------------------- inputs

    @cached_property
    def sources(self) -> Sources:
        """Where the data lie; the example is built where none are asked for."""
        options = self._options
        folder = options.data or default_data()
        asked = options.data or holds_release(folder) or (options.dnn_rdms and options.fmri_rdms)
        if not asked:
            from utils.datasets.simulated import ensure_example

            with self._progress("simulating the example (once)") as advance:
                folder = ensure_example(default_data() / "example", advance)
        names = (
            "dnn_rdms",
            "fmri_rdms",
            "space",
            "roi_labels",
            "atlas",
            "pairs",
            *(["mask"] if "mask" in options else []),
        )
        given = {name: getattr(options, name) for name in names}
        sources = locate(self.kind, folder, **given)
        if sources.simulated:
            print(f"{SIMULATED}. Use --data DIR for real data (see data/README.md).", flush=True)
        return sources

    @property
    def banner(self) -> str | None:
        """What every figure and page of simulated data says."""
        return SIMULATED if self.sources.simulated else None

    @cached_property
    def resources(self) -> Resources:
        """Where to compute; workers are started when this is first asked for."""
        connected = self._exit.enter_context(workers(self._options))
        return Resources(self._device, connected, self._progress, self._interim)

    @cached_property
    def models(self) -> ModelRdms:
        """RDMs of the networks."""
        models = load_models(self.sources, self._options.layers, self._options.models, self._options.nuisance)
        check_people(models, self.settings)
        return models

    @cached_property
    def searchlights(self) -> SearchlightRdms:
        """Searchlight RDMs."""
        with self._progress("reading searchlights") as advance:
            models = self.models
            return load_searchlights(self.sources, models.n_conditions, advance, models.pairs, models.n_people)

    @cached_property
    def rois(self) -> RoiRdms:
        """ROI RDMs."""
        models = self.models
        return load_rois(self.sources, models.n_conditions, self._options.rois, models.pairs, models.n_people)

    @cached_property
    def atlas(self) -> Atlas | SurfaceLabels | None:
        """Where the ROIs lie, if there is an atlas."""
        return load_atlas(self.sources)

    def _check_atlas(self) -> None:
        """Refuse what cannot be read or drawn before anything is computed."""
        vertices, drawn = None, [self.atlas] if isinstance(self.atlas, SurfaceLabels) else []
        if self.kind == "searchlight" and (path := SearchlightFolder(self.sources.fmri_rdms).geometry).exists():
            vertices = load_geometry(path).vertices if self.sources.mask is None else None
        elif drawn:
            vertices = drawn[0].vertices
        if self._options.surface == NO_SURFACE and (drawn or vertices):
            what = "`atlas` has" if drawn else "the data are of"
            raise InputError(f"`surface` none draws slices, but {what} vertices; leave one out")
        surface = self._surface_of(vertices)
        if vertices is not None:
            sample(np.zeros(vertices.shape), None, surface, vertices)
        for labels in drawn:
            sample(labels.labels, None, surface, labels.vertices)

    def _surface_of(self, vertices: Vertices | None) -> Surface:
        """What maps are drawn on: data of vertices on their own mesh, unless a coarser average brain is asked for."""
        own, asked = self.sources.surface, self._options.surface
        if vertices is None or vertices.brain == DEFAULT_SURFACE:
            return str(asked or DEFAULT_SURFACE)
        if vertices.brain in FSAVERAGE and (asked or own is None):
            return str(asked or vertices.brain)
        if own is None:
            parts = " and ".join(f"{n:,}" for n in sorted({vertices.left, vertices.right} - {0}))
            source = self.sources.fmri_rdms if self.atlas is None or self.kind == "searchlight" else self.atlas.source
            raise InputError(
                f"{source}: {parts} vertices per hemisphere, expected {known_brains()}, or the meshes of others in the "
                "data folder; give these to the command that makes the RDMs (`surface_mesh`)"
            )
        return own

    # --------------------------------------------------------------------------------------------------------- outputs

    def save(self, fit: SearchlightFit | RoiFit, table: pd.DataFrame) -> pd.DataFrame:
        """Write results.tsv and arrays.npz.

        On the published data, the table of a ROI figure gets columns with the paper's own numbers, which are also
        printed.

        Returns
        -------
        DataFrame
            The table as written.
        """
        if self.kind == "roi" and paper.applies(self.sources, fit.models, self.rois):
            table = paper.beside(self.figure, table)
            print(paper.text(table))
        self._fit, self._table = fit, table
        write_arrays(self._outputs.path("arrays.npz"), **fit.arrays())
        write_table(self._outputs.path("results.tsv"), table)
        return table

    @cached_property
    def colors(self) -> dict[str, str]:
        """Colours of all networks and groups, whichever of them were chosen."""
        return study_colors(self.models.table)

    def _look(self, title: str = "", first: Map | None = None) -> Look:
        """Of figures, and of maps of which this is the first."""
        on_cortex = first is None or first.affine is None or is_mni(first.space)
        vertices = None if first is None else first.vertices
        surface = self._surface_of(vertices) if on_cortex and self._options.surface != NO_SURFACE else None
        return Look(title or self.title, self.banner, surface, self._options.style)

    def _draw_maps(self, maps: Sequence[Map], notes: Sequence[str], title: str = "") -> Look:
        """Write the brain map pages and the maps for other programs: on the cortex, or as slices in other spaces."""
        assert isinstance(maps[0], LabelMap)
        look = self._look(title, maps[0])
        warn_of_space(maps[0])
        atlas = self.atlas
        if isinstance(look.surface, Path) and isinstance(atlas, Atlas):
            warnings.warn(f"{atlas.source}: is a volume, but maps are of vertices: it is left out", stacklevel=2)
            atlas = None
        save_maps(self._outputs, maps, look, notes, atlas)
        self._space = maps[0].space
        return look

    def _nuisance_note(self) -> list[str]:
        """One sentence, if there are nuisance RDMs."""
        if (nuisance := self.models.nuisance) is None:
            return []
        return [f"Variance explained beside {len(nuisance)} nuisance RDM{'s' * (len(nuisance) > 1)}."]

    def _pairs_note(self) -> list[str]:
        """One sentence, if pairs of conditions are left out."""
        if (pairs := self.models.pairs) is None:
            return []
        return [f"{int((~pairs.kept).sum()):,} of {len(pairs.kept):,} pairs of conditions are left out."]

    def draw_searchlights(self, maps: Sequence[Map], notes: Sequence[str]) -> None:
        """Write the brain map pages, the maps for other programs, and the first map as figure.svg and figure.png."""
        notes = [*notes, *self._nuisance_note(), *self._pairs_note()]
        look = self._draw_maps(maps, notes)
        save_montage(self._outputs, maps, look, notes)

    def draw_rois(
        self, panels: Sequence[RoiPanel], note: str, *, legend: dict[str, str], ceiling: pd.DataFrame | None = None
    ) -> None:
        """Write the figure of the ROIs as figure.svg and figure.png."""
        note = " ".join([note, *self._nuisance_note(), *self._pairs_note()])
        figure = roi_figure(panels, self._look(), note, legend=legend, ceiling=ceiling, figure=self.figure)
        save_figure(figure, self._outputs.path("figure.svg"), self._outputs.path("figure.png"))

    def draw_roi_maps(self, maps: Callable[[RoiLocations], Sequence[Map]], note: str, title: str) -> None:
        """Write the brain maps of the ROIs; without an atlas, say in one line how to get them.

        Raises
        ------
        InputError
            If the atlas has none of the ROIs.
        """
        if self.atlas is None:
            print(
                "No brain map of the ROIs: there is no atlas. Give one with --atlas FILE (a volume whose labels are "
                "the ids of the ROI table, or labels of vertices); python -m utils.fetch atlas gets that of the "
                "paper's ROIs, of Wang et al. 2015."
            )
            return
        drawn = maps(RoiLocations(self.atlas, self.rois.ids))
        there = {*np.unique(self.atlas.labels).tolist()}
        lacking = [name for name, number in zip(self.rois.names, self.rois.ids, strict=True) if number not in there]
        if lacking:
            warnings.warn(f"{self.atlas.source}: does not have {few(lacking)}: not on the brain map", stacklevel=2)
        self._draw_maps(drawn, [drawn[0].note, note], title)

    # ------------------------------------------------------------------------------------------------------ the end

    def _record(self) -> dict[str, Any]:
        """Provenance of the run, for run.json."""
        fit, models = self._fit, self.models
        brain = [fit.brain.mean] if self.kind == "searchlight" else fit.rois.subjects  # type: ignore[union-attr]
        nuisance = [] if models.nuisance is None else [models.nuisance]
        described = {
            "simulated": self.sources.simulated,
            **{name: str(path) for name, path in vars(self.sources).items() if isinstance(path, Path)},
            **({"atlas": ", ".join(map(str, self.sources.atlas))} if self.sources.atlas else {}),
            **fit.summary(),
            "networks": dict(Counter(model.group for model in models.models)),
            "layers": models.layers,
            "fingerprint": fingerprint(fit.models.rdms, *nuisance, *brain),
        }
        if self._space:
            described["space"] = self._space
        if nuisance:
            described["n_nuisance"] = len(nuisance[0])
        if models.pairs is not None:
            described |= {"n_pairs": models.pairs.n_kept, "n_pairs_left_out": int((~models.pairs.kept).sum())}
            described["n_exchangeable"] = len({*models.pairs.exchangeable.tolist()})
        described |= self._brain_rdms()
        if self.settings.blocks:
            described["n_blocks"] = len({*self.settings.blocks})
        if self.resources.workers is not None:
            described["dask_workers"] = self.resources.workers.n_workers
        return provenance(self.figure, vars(self._options), described, self._device, self._started)

    def _brain_rdms(self) -> dict[str, Any]:
        """How brain RDMs were made, where a command of this program made them."""
        folder = self.sources.fmri_rdms if self.sources.fmri_rdms.is_dir() else self.sources.fmri_rdms.parent
        made = read_record(folder / RECORD).get("options", {})
        if not isinstance(made, dict) or "metric" not in made:
            return {}
        noise = (made.get("noise") or ["runs"]) if made["metric"] == "crossnobis" else ["none"]
        kind = noise[0] if noise in (["runs"], ["none"]) else "residuals"
        return {"brain_metric": made["metric"], "brain_centered": bool(made.get("center")), "brain_noise": kind}

    def _publish(self) -> None:
        """Write the report, move all results into place, say which files there are, and open the report."""
        record, folder = self._record(), self._options.results / self.figure
        report.write_columns(self._outputs.path("results.json"), record, self._table)
        page = self._outputs.path("report.html")
        report.write_report(page, record, self._table, title=self.title, warnings=self.warnings, banner=self.banner)
        written = [path.relative_to(folder) for path in self._outputs.publish(record)]
        report.write_index(self._options.results)
        print(found(self._table))
        print(f"{self.figure} took {time.time() - self._started:.1f} s and wrote")
        for name in written:
            if len(name.parts) == 1:
                print(f"  {folder / name}")
        n_maps = sum(len(name.parts) > 1 for name in written)
        if n_maps:
            print(f"  {folder / 'maps'}/ ({n_maps} files)")
        if self._options.open:
            webbrowser.open((folder / "report.html").resolve().as_uri())
