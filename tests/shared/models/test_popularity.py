import torch

from shared.events import Event
from shared.models import popularity
from shared.models.contract import score
from shared.models.dataset import Case, cases, read_log
from shared.models.evaluation import servable
from shared.models.fitting import Run
from shared.models.popularity import Config, RecencyConfig
from shared.models.split import FOREVER, Split
from tests.shared.models.worlds import DAY, SCHEMA, SPACE, START, interaction

# old: three users long ago; new: two users lately; fan: one user, four times
OLD: list[Event] = [interaction(f"u{at}", "old", START + at * DAY) for at in range(3)]
NEW: list[Event] = [interaction(f"v{at}", "new", START + (800 + at) * DAY) for at in range(2)]
FAN: list[Event] = [interaction("w", "fan", START + (780 + at) * DAY) for at in range(4)]
EVENTS = [*OLD, *NEW, *FAN]
LOG = read_log(EVENTS, SPACE)


def ranking(split: Split, config: Config | RecencyConfig, run: Run | None = None) -> list[str]:
    """Best first."""
    found = popularity.fit(split, config, run or Run()).scorer([Case(0.0, cases(LOG, 0, FOREVER)[0].user, ())])[0]
    ids = list(split.row_of)
    return [ids[row] for row in found.argsort(descending=True).tolist()]


def test_popularity_counts_users_and_events_where_items_are_asked_again() -> None:
    assert ranking(Split(LOG, SPACE, SCHEMA), Config()) == ["old", "new", "fan"]
    assert ranking(Split(LOG, SPACE, SCHEMA, repeats=True), Config()) == ["fan", "old", "new"]


def test_recent_popularity_forgets() -> None:
    assert ranking(Split(LOG, SPACE, SCHEMA), RecencyConfig((30.0,))) == ["new", "fan", "old"]
    assert ranking(Split(LOG, SPACE, SCHEMA, repeats=True), RecencyConfig((30.0,))) == ["fan", "new", "old"]
    assert ranking(Split(LOG, SPACE, SCHEMA), RecencyConfig((1e5,))) == ["old", "new", "fan"]


def test_what_is_long_ago_still_has_an_order() -> None:
    events = [interaction(f"u{at}", f"i{at}", START + at * 300 * DAY) for at in range(4)]
    assert ranking(Split(read_log(events, SPACE), SPACE, SCHEMA), RecencyConfig((1.0,))) == ["i3", "i2", "i1", "i0"]


def test_items_of_equal_popularity_tie() -> None:
    events = [interaction(f"u{at}", f"i{at % 2}", START + at * DAY) for at in range(4)]
    found = popularity.fit(Split(read_log(events, SPACE), SPACE, SCHEMA), Config(), Run()).scorer
    assert len(found(cases(LOG, 0, FOREVER)[:3]).unique()) == 1


def test_where_there_is_no_calendar_nothing_is_recent() -> None:
    split = Split(LOG, SPACE, SCHEMA, clock=False)
    assert ranking(split, RecencyConfig((30.0,))) == ["old", "new", "fan"]
    assert popularity.fit(split, RecencyConfig(), Run()).chosen == {}


def test_the_half_life_is_chosen_on_validation_and_kept_in_a_refit() -> None:
    asked = Case(START + 900 * DAY, cases(LOG, 0, FOREVER)[0].user, ("new",))
    split = Split(LOG, SPACE, SCHEMA, held_out=[asked])
    chosen = popularity.fit(split, RecencyConfig((1e5, 30.0)), Run()).chosen
    assert chosen == {"half_life_days": 30.0}
    assert ranking(Split(LOG, SPACE, SCHEMA), RecencyConfig((1e5,)), Run(chosen=chosen)) == ["new", "fan", "old"]
    assert popularity.fit(Split(LOG, SPACE, SCHEMA), RecencyConfig((90.0, 30.0)), Run()).chosen == {
        "half_life_days": 90.0
    }


def test_what_serves_it_ranks_alike() -> None:
    split = Split(LOG, SPACE, SCHEMA)
    asked = cases(LOG, 0, FOREVER)[:2]
    for config in (Config(), RecencyConfig((300.0,))):
        fitted = popularity.fit(split, config, Run())
        table = fitted.model.encode_items(split.items)
        served = servable(fitted.model, table)(asked)
        assert torch.equal(served.argsort(1), fitted.scorer(asked).argsort(1))
        assert score(fitted.model.encode_users([], table, 0.0), table).shape == (0, 3)
