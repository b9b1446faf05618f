"""Assign: which variant of the experiment each request is of, and so which generation ranks it."""

from collections.abc import Sequence
from typing import Final

from services.ranking.catalogue import Catalogue
from services.ranking.experiments import Experiment
from services.ranking.generation import Generation
from services.ranking.job import Job

NOT_IN_SERVICE: Final = "the bundle of this user's variant is not in service, so the current one was used"


def assign(jobs: Sequence[Job], experiment: Experiment, catalogue: Catalogue) -> dict[Generation, list[Job]]:
    """Fill in variant; the jobs by the generation that ranks them. Those whose state it cannot read are left out."""
    ranked_by: dict[Generation, list[Job]] = {}
    for job in jobs:
        generation = _generation_of(job, experiment, catalogue)
        if job.hydrated and generation.release.space in ("", job.hydrated.space):
            ranked_by.setdefault(generation, []).append(job)
    return ranked_by


def _generation_of(job: Job, experiment: Experiment, catalogue: Catalogue) -> Generation:
    variant = experiment.variant_of(job.query.user_id)
    if variant is None:
        return catalogue.current
    generation = catalogue.of(variant.bundle)
    if generation is None:
        job.detour = NOT_IN_SERVICE
        return catalogue.current
    job.variant = variant.name
    return generation
