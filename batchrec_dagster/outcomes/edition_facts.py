"""The numbers of editions that outlive their rows: read from an edition, kept in the record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from batchrec_dagster.personalize.evidence import read_ndcg, read_popular_ndcg
from batchrec_dagster.storage.editions import Edition
from batchrec_dagster.storage.publications import EditionFacts, Publication, PublicationRecord


def read_facts(edition: Edition) -> EditionFacts:
    """The facts that the edition's metadata have."""
    ndcg = read_ndcg(edition)
    return EditionFacts(
        ndcg=ndcg.value if ndcg else None,
        ndcg_low=ndcg.low if ndcg else None,
        ndcg_high=ndcg.high if ndcg else None,
        popular_ndcg=read_popular_ndcg(edition),
        measured_on=edition.measured_on,
        success=edition.success,
        users=edition.counts.subjects if edition.subject == "user" else None,
        seconds=edition.seconds,
        cost_usd=edition.cost_usd,
        root_run=edition.root_run,
    )


def complete_facts(
    record: PublicationRecord, read_editions: Callable[[], Sequence[Edition]]
) -> PublicationRecord:
    """The record with the facts of all editions that are kept.

    read_editions: reads the editions that are kept. It is called if facts are missing.
    """
    has_all = all(publication.facts is not None for publication in record.publications)
    editions = [] if has_all else read_editions()
    publications = (
        _complete_publication(publication, editions) for publication in record.publications
    )
    return replace(record, publications=tuple(publications))


def _complete_publication(publication: Publication, editions: Sequence[Edition]) -> Publication:
    if publication.facts is not None:
        return publication
    for edition in editions:
        if publication.is_of(edition):
            return replace(publication, facts=read_facts(edition))
    return publication
