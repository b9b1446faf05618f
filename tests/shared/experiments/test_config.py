from dataclasses import replace
from pathlib import Path

import pytest

from shared.experiments.config import MODELS, WrongConfig, read, shipped
from tests.shared.experiments.small import DATA, write_config


def told(path: Path) -> str:
    with pytest.raises(WrongConfig) as refused:
        read(str(path), path.parent)
    return str(refused.value)


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_config_is_right(name: str) -> None:
    found = read(name, Path("../shared/data"))
    assert found.seeds == 3
    assert {row.kind for row in found.rows} <= MODELS.keys()


def test_every_model_has_a_config_and_a_fit() -> None:
    for model in MODELS.values():
        config, fit = model.load()
        assert callable(fit)
        assert config.__dataclass_params__.frozen


def test_what_a_row_does_not_say_is_the_models_default(tmp_path: Path) -> None:
    path = write_config(tmp_path / "a.toml", '[[model]]\nkind = "sasrec"\nd = 16\nlearning_rate = 1\n')
    (row,) = read(str(path), tmp_path).rows
    config = row.config()
    assert (config.d, config.learning_rate, config.layers) == (16, 1.0, MODELS["sasrec"].load()[0]().layers)
    assert (row.label, row.baseline, row.against) == ("sasrec", True, None)


def test_a_label_may_differ_from_its_model_and_a_row_may_be_compared_with_another(tmp_path: Path) -> None:
    models = '[[model]]\nkind = "finerec"\n[[model]]\nlabel = "without"\nkind = "finerec"\nopinions = false\nagainst = "finerec"\n'
    whole, without = read(str(write_config(tmp_path / "a.toml", models)), tmp_path).rows
    assert (without.label, without.against, without.config().opinions) == ("without", "finerec", False)
    assert whole.config().opinions


def test_models_without_randomness_are_fitted_once(tmp_path: Path) -> None:
    models = '[[model]]\nkind = "popularity"\n[[model]]\nkind = "sasrec"\n'
    found = read(str(write_config(tmp_path / "a.toml", models)), tmp_path, seeds=2)
    assert [found.seeds_of(row) for row in found.rows] == [[1], [1, 2]]


def test_a_row_may_have_its_own_pairs_and_all_else_of_the_data_is_the_files(tmp_path: Path) -> None:
    models = '[[model]]\nkind = "popularity"\n[[model]]\nlabel = "n"\nkind = "popularity"\ndata = { pairs = "none" }\n'
    found = read(str(write_config(tmp_path / "a.toml", models)), tmp_path)
    as_file, own = map(found.spec_of, found.rows)
    assert as_file == found.spec
    assert own == replace(found.spec, pairs="none")


@pytest.mark.parametrize(
    ("models", "says"),
    [
        ('[[model]]\nkind = "sasrek"\n', "there is no model 'sasrek'; there are popularity,"),
        ('[[model]]\nkind = "sasrec"\ndepth = 2\n', "model 'sasrec': there is no depth; there are"),
        ('[[model]]\nkind = "sasrec"\nd = "wide"\n', "d is 'wide', and has to be int"),
        ('[[model]]\nkind = "sasrec"\nd = 1.5\n', "d is 1.5, and has to be int"),
        ('[[model]]\nkind = "sasrec"\nepochs = true\n', "epochs is True, and has to be int"),
        ('[[model]]\nkind = "sasrec"\nbias = 1\n', "bias is 1, and has to be bool"),
        ('[[model]]\nlabel = "x"\n', "kind is missing"),
        ('[[model]]\nkind = "sasrec"\n[[model]]\nkind = "sasrec"\n', "the label 'sasrec' is there twice"),
        ('[[model]]\nkind = "sasrec"\nagainst = "nobody"\n', "compared with 'nobody', which is no label here"),
        ('[[model]]\nkind = "sasrec"\ndata = { split = 0.5 }\n', "data of a row has extractor, pairs, not split"),
        ('[[model]]\nkind = "sasrec"\ndata = { pairs = "some" }\n', "data set made-up: Invalid enum value 'some'"),
        ("", "model is missing"),
    ],
)
def test_a_wrong_model_is_one_sentence(tmp_path: Path, models: str, says: str) -> None:
    sentence = told(write_config(tmp_path / "a.toml", models))
    assert says in sentence
    assert sentence.startswith(str(tmp_path / "a.toml"))
    assert "\n" not in sentence


@pytest.mark.parametrize(
    ("head", "data", "says"),
    [
        ("colour = 1\n", DATA, "there is no colour; a config has title, note, seeds, data and model"),
        ("seeds = 0\n", DATA, "seeds is 0, and has to be 1 or more"),
        ("seeds = true\n", DATA, "seeds is True, and has to be a whole number"),
        ("", DATA + "shape = 1\n", "a data set has no shape"),
        ("", 'name = "x"\n', "give one of reviews, interactions, sequences, archive"),
        ("", DATA + 'protocol = "best"\n', "'best'"),
        ("title = \n", DATA, "Invalid value (at line 1"),
    ],
)
def test_a_wrong_config_is_one_sentence(tmp_path: Path, head: str, data: str, says: str) -> None:
    assert says in told(write_config(tmp_path / "a.toml", data=data, head=head))


def test_a_name_that_is_neither_shipped_nor_a_file_is_told_what_there_is(tmp_path: Path) -> None:
    assert "musical_instruments_time" in told(tmp_path / "nothing")
