"""The tables of lists that a pipeline publishes: lists for users, similar items, and segments."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field, SkipValidation

from batchrec_dagster.config.items_and_users import BatchUsers, ItemIds
from batchrec_dagster.config.list_columns import REASON
from batchrec_dagster.config.lists import RecommendationSettings
from batchrec_dagster.config.publication import Experiment, Gate, Retention
from batchrec_dagster.config.segments import Segments
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.editions.subjects import ITEMS, SEGMENTS, USERS, ListSubject
from batchrec_dagster.personalize.api import BATCH_INFERENCE_JOB, BATCH_SEGMENT_JOB, ResourceKind
from batchrec_dagster.personalize.formats import ITEM_FIELD, USER_FIELD
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.sinks import Sinks
from batchrec_dagster.storage.layout import BatchJob, ListKeys, is_of_list

if TYPE_CHECKING:
    from batchrec_dagster.config.declaration import Pipeline


class ListTable(BaseModel, frozen=True):
    """A table of lists that people read, with the settings that can differ from table to table.

    Settings that are not here, such as the sources, are shared with the pipeline's other tables.
    The subclasses are the kinds of lists. A kind answers for itself wherever kinds differ.
    """

    subject: ClassVar[ListSubject]
    """The kind of subject that gets a list, and the columns of the table."""
    job_kind: ClassVar[ResourceKind] = BATCH_INFERENCE_JOB
    """The kind of batch job that makes the lists."""
    job_folder: ClassVar[BatchJob]
    """The name of the folders of the job's lines and outputs."""
    is_for_people: ClassVar[bool] = False
    """Whether each list is for a person.

    People's responses to lists are measured, and lists for people have reasons, and are filled if
    rules leave them short.
    """
    has_items: ClassVar[bool] = True
    """Whether the lists contain items. The lists of segments contain users."""
    is_addressed: ClassVar[bool] = True
    """Whether commands, jobs and records of runs use the address of the table."""
    job_reads_new_data: ClassVar[bool] = True
    """Whether the batch job reads data that were imported after the training."""
    may_list_subject: ClassVar[bool] = False
    """Whether the model may put the subject of a list on its own list."""

    pipeline: SkipValidation[Pipeline] = Field(repr=False)
    name: str
    """A key of `lists`, similar_items or segments; empty for the only list of a pipeline."""
    description: str | None = None
    settings: RecommendationSettings
    """The settings for the content of each list."""
    batch_users: BatchUsers = Field(default_factory=BatchUsers)
    """The users who get a list."""
    gate: Gate
    retention: Retention
    experiment: Experiment | None = None
    sinks: Sinks = Field(default_factory=Sinks)

    @property
    @abstractmethod
    def model_asset(self) -> str | None:
        """The asset name of the model; None if items bought together are counted."""

    @property
    @abstractmethod
    def recipe(self) -> str | None:
        """The recipe of the model; None if items bought together are counted."""

    @property
    @abstractmethod
    def content_settings(self) -> list[Any]:
        """The settings that decide the lists' content, without settings of upstream assets."""

    @property
    @abstractmethod
    def line_field(self) -> str:
        """The name of the field with the id or the query in a line of the job's input."""

    @property
    @abstractmethod
    def own_blocks(self) -> Mapping[str, BaseModel | None]:
        """The blocks of the declaration, by name, that only this kind of lists reads."""

    @property
    def declared_items(self) -> list[ItemIds | None]:
        """The declared sources of item ids that decide the lists."""
        rules = self.settings.rules
        return [] if rules is None else [rules.block]

    @property
    def address(self) -> str:
        """The name in commands and the storage: `shop`, or `shop/newsletter`."""
        return f"{self.pipeline.name}/{self.name}" if self.name else self.pipeline.name

    @property
    def setting(self) -> str:
        """The prefix of the names of the table's settings.

        It is `recommendations`, `lists.newsletter`, `similar_items` or `segments`.
        """
        return self.name

    @property
    def failure_limit(self) -> tuple[float, str]:
        """The largest share of lines that may fail, and the setting to change if more do."""
        return self.settings.max_failed_share, f"{self.setting}.max_failed_share"

    @property
    def own_keys(self) -> list[str]:
        """The path of keys to the block with the list's own settings.

        The path is empty for the only list of a pipeline: the settings of that list are at the top
        level.
        """
        return self.setting.split(".") if self.name else []

    @property
    def has_own_users(self) -> bool:
        """Whether the list has its own users' file, not the file of the whole pipeline."""
        declared = self.pipeline.lists.get(self.name)
        return declared is not None and declared.users is not None

    @property
    def users_setting(self) -> str:
        """The name of the block that selects the list's users, such as `batch_users`."""
        return f"{self.setting}.users" if self.has_own_users else "batch_users"

    @property
    def keys(self) -> ListKeys:
        """The storage keys of the list's own files and of its pipeline's files."""
        return ListKeys(self.address)

    @property
    def users_key(self) -> str:
        """The storage key of the users who get a list."""
        keys = self.keys
        return keys.users_of_list if self.has_own_users else keys.job_input("batch_inference")

    @property
    def users_record(self) -> str:
        """The storage key of the record of the users who get a list."""
        name = "batch_users"
        return self.keys.list_record(name) if self.has_own_users else self.keys.record(name)

    @property
    def lines_key(self) -> str:
        """The storage key of the lines that the batch job answers."""
        return self.keys.job_input(self.job_folder)

    @property
    def asset(self) -> str:
        """The asset name of the table: `recommendations`, `similar_items` or `user_segments`."""
        return self.keys.table_name

    @property
    def divides_users(self) -> bool:
        """Whether some users of the list get popular items or nothing, not the model's items."""
        return self.experiment is not None or self.settings.newcomers is not None

    def asset_key(self, asset: str) -> list[str]:
        """Return the key path of the list's asset, or of an asset that all lists share."""
        is_own = is_of_list(asset) or (asset == "batch_users" and self.has_own_users)
        if is_own and self.keys.is_named_list:
            return [self.pipeline.name, self.name, asset]
        return self.pipeline.asset_key(asset)

    @property
    def columns(self) -> list[str]:
        """The declared columns of the lists: columns of the items, and reasons."""
        if self.settings.columns is not None:
            return self.settings.columns
        return ["title"] if self.pipeline.has_titles else []

    @property
    def has_item_columns(self) -> bool:
        """Whether the table has columns of items, such as their titles."""
        return True

    @property
    def item_column(self) -> str:
        """The column with the ids of the items that the item columns describe."""
        return self.subject.member_column

    @property
    def shows_titles(self) -> bool:
        """Whether the lists contain items and show the items' titles."""
        return self.has_items and "title" in self.columns

    def order_columns(self, item_columns: Sequence[str]) -> list[str]:
        """Return the columns of the published table, in their order.

        item_columns: the published names of the declared columns.
        """
        subject = self.subject
        return [subject.column, "rank", subject.member_column, *item_columns, "score"]

    def explain_empty_lists(self, *, has_results: bool) -> str | None:
        """Return the reason why no list has any item; None if another check explains it.

        has_results: whether the job returned results that rules left out.
        """
        return None

    @property
    def deciding_settings(self) -> dict[str, Any]:
        """The settings that decide the content of lists, by path such as interactions.min_rating.

        Defaults are left out. The queries of URLs are left out too, because they may be signatures.
        An absolute path in the project is stored as a relative path, so that two ways to write the
        same path do not count as a change.
        """
        pipeline = self.pipeline
        blocks = {
            name: getattr(pipeline, name) for name in ("ratings", "interactions", "items", "users")
        }
        return flatten_settings({**blocks, **self.own_blocks}, pipeline.project)


class UserLists(ListTable, frozen=True):
    """The lists of items for users."""

    subject: ClassVar[ListSubject] = USERS
    job_folder: ClassVar[BatchJob] = "batch_inference"
    is_for_people: ClassVar[bool] = True

    @property
    def setting(self) -> str:
        return f"lists.{self.name}" if self.name else "recommendations"

    @property
    def model_asset(self) -> str:
        return "solution_version"

    @property
    def recipe(self) -> str:
        return self.pipeline.solution.recipe

    def order_columns(self, item_columns: Sequence[str]) -> list[str]:
        reason = [REASON] if self.settings.lists_have_reasons else []
        arm = ["arm"] if self.experiment is not None else []
        own_columns = [name for name in (*reason, *arm) if name not in item_columns]
        return [*super().order_columns(item_columns), *own_columns]

    def explain_empty_lists(self, *, has_results: bool) -> str | None:
        if self.settings.applied_rules is not None and has_results:
            return None
        return (
            f"{self.setting}.filter excludes every item that users have not seen, or there is none"
        )

    @property
    def content_settings(self) -> list[Any]:
        pipeline = self.pipeline
        popularity = pipeline.popularity_settings
        return [self.settings, self.experiment, *popularity, pipeline.has_titles]

    @property
    def line_field(self) -> str:
        return USER_FIELD

    @property
    def lines_key(self) -> str:
        """The storage key of the users who get a list of the model, if other users do not.

        Lists that share a batch job share the file. If all users get a list of the model, the job
        reads the file that the asset batch_users wrote, and this file does not exist.
        """
        is_shared = self.experiment is None and not self.has_own_users
        return (ListKeys(self.pipeline.name) if is_shared else self.keys).model_users

    @property
    def own_blocks(self) -> Mapping[str, BaseModel | None]:
        return {
            "solution": self.pipeline.solution,
            "batch_users": self.batch_users,
            "recommendations": self.settings,
            "popularity": self.pipeline.popularity,
            "experiment": self.experiment,
        }


class ItemLists(ListTable, frozen=True):
    """The lists of the items that go with each item."""

    subject: ClassVar[ListSubject] = ITEMS
    job_folder: ClassVar[BatchJob] = "batch_similar_items"
    may_list_subject: ClassVar[bool] = True
    similar_items: SimilarItems
    """The block of the declaration."""

    @property
    def model_asset(self) -> str | None:
        return None if self.recipe is None else "similar_items_solution_version"

    @property
    def recipe(self) -> str | None:
        return self.pipeline.similar_items_recipe

    @property
    def content_settings(self) -> list[Any]:
        return [self.similar_items.deciding_settings, self.pipeline.has_titles]

    @property
    def line_field(self) -> str:
        return ITEM_FIELD

    @property
    def declared_items(self) -> list[ItemIds | None]:
        return [*super().declared_items, self.similar_items.items]

    def explain_empty_lists(self, *, has_results: bool) -> str | None:
        return f"{self.setting}.rules leave out every item, or too few people had two items"

    @property
    def own_blocks(self) -> Mapping[str, BaseModel | None]:
        return {self.name: self.similar_items}


class SegmentLists(ListTable, frozen=True):
    """The lists of the users of each segment.

    Segments belong to their pipeline's lists. No command shows them or rolls them back separately.
    """

    subject: ClassVar[ListSubject] = SEGMENTS
    job_kind: ClassVar[ResourceKind] = BATCH_SEGMENT_JOB
    job_folder: ClassVar[BatchJob] = "batch_segments"
    has_items: ClassVar[bool] = False
    is_addressed: ClassVar[bool] = False
    # A model of segments uses its training data alone.
    job_reads_new_data: ClassVar[bool] = False
    segments: Segments
    """The block of the declaration."""

    @property
    def model_asset(self) -> str:
        return "segment_solution_version"

    @property
    def recipe(self) -> str:
        return self.segments.recipe

    @property
    def content_settings(self) -> list[Any]:
        return [self.segments, self.pipeline.has_titles]

    @property
    def line_field(self) -> str:
        return self.segments.query_field

    @property
    def failure_limit(self) -> tuple[float, str]:
        kind = "items" if self.segments.items else "attributes"
        return 0.0, f"{self.setting}.{kind}"

    @property
    def has_item_columns(self) -> bool:
        # A segment that an expression defines belongs to no single item.
        return bool(self.segments.items)

    @property
    def item_column(self) -> str:
        return self.subject.column

    def order_columns(self, item_columns: Sequence[str]) -> list[str]:
        of_items = item_columns if self.has_item_columns else []
        return [self.subject.column, *of_items, "rank", self.subject.member_column]

    @property
    def own_blocks(self) -> Mapping[str, BaseModel | None]:
        return {self.name: self.segments}


def flatten_settings(blocks: Mapping[str, BaseModel | None], project: Path) -> dict[str, Any]:
    """Return the settings of the blocks by path, without defaults and the queries of URLs.

    project: the folder where relative paths start.
    """
    settings = _flatten(
        {
            name: block.model_dump(mode="json", exclude_defaults=True)
            for name, block in blocks.items()
            if block is not None
        }
    )
    folder = f"{project.absolute()}/"
    return {
        name: value.removeprefix(folder) if isinstance(value, str) else value
        for name, value in settings.items()
        # `deps` decides which assets a run waits for, not the content of lists.
        if not name.endswith(".deps")
    }


def _flatten(settings: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{path}{name}.")
        else:
            flat[path + name] = hide_query(value) if isinstance(value, str) else value
    return flat
