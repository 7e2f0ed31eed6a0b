"""Training: recipes, the loop, and its data.

Importing this package imports no torch; `run` does.
"""

from collections.abc import Sequence
from pathlib import Path


def recipe_names() -> list[str]:
    """Names that `run` takes."""
    from mplug.train.recipes import RECIPES

    return sorted(RECIPES)


def run(recipe: str, overrides: Sequence[str], *, data: Path, output: Path, resume: bool = True) -> Path:
    """Trains by a recipe.

    Args:
        recipe: One of `recipe_names`.
        overrides: ``dotted.name=value`` settings, see `mplug.train.config.override`.
        data: Folder with the captions file and its images.
        output: Folder of the run; a run found there is continued.
        resume: False refuses to continue.

    Returns:
        The folder of the best model, as int8 rows.

    Raises:
        MplugError: An unknown recipe or setting, data that cannot be read, an output of another run.
    """
    from mplug.train import config, recipes, trainer

    settings = config.override(recipes.recipe(recipe), overrides)
    return trainer.Trainer(settings, data, output, resume=resume).fit()
