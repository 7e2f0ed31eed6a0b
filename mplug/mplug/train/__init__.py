"""Training: recipes, the loop, and its data.

Importing this package imports no torch; `run` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mplug.train.readers import Data


def recipe_names() -> list[str]:
    """Names that `run` takes."""
    from mplug.train.recipes import RECIPES

    return sorted(RECIPES)


def run(
    recipe: str, overrides: Sequence[str], *, data: Data, output: str | Path, resume: bool = True
) -> Path:
    """Trains by a recipe.

    Args:
        recipe: One of `recipe_names`.
        overrides: ``dotted.name=value`` settings, see `mplug.train.config.override`.
        data: For mplug-mini the folder with the captions file and its images; for the others one part or several,
            such as ``["mine.jsonl", "public.parquet=0.5"]``, see `mplug.train.readers.parts`.
        output: Folder of the run; a run found there is continued.
        resume: False refuses to continue.

    Returns:
        The folder of the best model; for mplug-mini as int8 rows.

    Raises:
        MplugError: An unknown recipe or setting, data that cannot be read, an output of another run.
    """
    from mplug.train import config, parallel, recipes, run_state, trainer

    chosen = recipes.recipe(recipe)
    settings = config.override(chosen.config(), overrides)
    with parallel.processes():
        if parallel.rank() == 0:
            # Before data is read and a model built, which may take minutes; the trainer claims it after them, so that a
            # run that was refused for its data leaves nothing to stand in the way of the next.
            run_state.RunFolder(Path(output)).check(settings, resume=resume)
        with parallel.first_alone():
            experiment = chosen.experiment(settings, data)
        return trainer.Trainer(experiment, settings, Path(output), resume=resume).fit()
