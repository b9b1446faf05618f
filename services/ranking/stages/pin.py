"""Pin: the rules' items at the rules' places, before everything that is chosen and whatever their scores.

`claim` takes them out of what is chosen from, `place` puts them in; between the two `places` says how many are left.
An item that is withdrawn, or that the request's filters leave out, is not pinned.
"""

from collections.abc import Sequence

from services.ranking.facts import Facts
from services.ranking.job import PINNED, Job, Pick
from services.ranking.rules import Rules


def claim(jobs: Sequence[Job], facts: Facts, rules: Rules) -> None:
    """Fill in `pinned`."""
    known = [(pin, row) for pin in rules.pins if (row := facts.row_of.get(pin.item)) is not None]
    able = facts.available[[row for _, row in known]].tolist() if known else []
    shown = sorted((pin.position, row) for (pin, row), may in zip(known, able, strict=True) if may)
    if not shown:
        return
    for job in jobs:
        scores = {pick.row: pick.score for pick in job.picks}
        before = len(job.query.shown)  # a rule's place counts from the first page's first
        job.pinned = [
            (position - before, Pick(row, scores.get(row, 0.0), placement=PINNED))
            for position, row in shown
            if 0 < position - before <= job.query.k and _may(job, row)
        ]
        rows = {pick.row for _, pick in job.pinned}
        job.picks = [pick for pick in job.picks if pick.row not in rows]


def _may(job: Job, row: int) -> bool:
    within = job.within is None or bool(job.within[row])
    return within and row not in job.banned and (job.rows is None or row in job.rows)


def place(jobs: Sequence[Job]) -> None:
    """Where an answer is too short for a place, the pinned item comes at its end."""
    for job in jobs:
        if job.pinned:
            job.picks = job.picks[: job.places]
            for position, pick in job.pinned:  # in order, so that each place is as it will stay
                job.picks.insert(position - 1, pick)
