import pytest

from mplug.errors import MplugError
from mplug.train.config import override
from mplug.train.recipes import mplug_mini, recipe


def test_dotted_names_replace_single_fields() -> None:
    config = override(mplug_mini(), ["optimizer.text_lr=1e-5", "epochs=3", "data.crop_sets=['photo']"])
    assert (config.optimizer.text_lr, config.epochs, config.data.crop_sets) == (1e-5, 3, ("photo",))
    assert config.optimizer.head_lr == mplug_mini().optimizer.head_lr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("epochs", "name=value"),
        ("epoch=3", "no field 'epoch'"),
        ("optimizer.lr=1", "there are betas"),
        ("optimizer=1", "group"),
        ("epochs.x=1", "is a value"),
        ("epochs=many", "expected int"),
    ],
)
def test_a_wrong_setting_says_what_is_right(setting: str, said: str) -> None:
    with pytest.raises(MplugError, match=said):
        override(mplug_mini(), [setting])


def test_an_unknown_recipe_lists_the_known() -> None:
    with pytest.raises(MplugError, match="mplug-mini"):
        recipe("mplug-maxi")
