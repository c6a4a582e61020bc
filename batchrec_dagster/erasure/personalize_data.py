"""What Personalize has of the people: datasets, and the parts of models that have users."""

from __future__ import annotations

from dataclasses import dataclass

from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Amount
from batchrec_dagster.erasure.unfinished import UnfinishedErasure
from batchrec_dagster.personalize.data_deletion import erase_users_from_groups, find_dataset_groups
from batchrec_dagster.steps.work import PersonalizeWork

REMAINS_ON_AWS = (
    "In Amazon Personalize the models stay that learned from these people among all others; the"
    " next training is without them."
)


@dataclass(frozen=True)
class PersonalizeData:
    """The dataset groups of the pipeline, each of which needs a data deletion job."""

    work: PersonalizeWork
    name: str = "Personalize"

    @property
    def consequence(self) -> str:
        if self.work.ensure.on_aws:
            return "a data deletion job for each dataset group, of up to a day"
        return "datasets and models without them"

    def count(self, people: People) -> Amount:
        return Amount(len(self._find_groups()), "dataset groups", is_of_people=False)

    def erase(self, people: People) -> int:
        files = self.work.files
        results = erase_users_from_groups(
            self.work.ensure,
            self.work.storage.store,
            files.uri(files.keys.erasure_inputs),
            self._find_groups(),
            people.ids,
            request=UnfinishedErasure.of(files, people).read().request,
        )
        return len(results)

    def _find_groups(self) -> list[str]:
        return find_dataset_groups(self.work.ensure, self.work.pipeline.name)
