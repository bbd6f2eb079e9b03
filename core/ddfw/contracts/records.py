"""Records that cross wings: each is made in one place and read where its class says.

Shapes: m classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import attrs
from attr import asdict  # attrs' own asdict would keep tuples, which JSON does not have
from attrs import field, frozen

if TYPE_CHECKING:
    from ddfw.contracts.dataset import ImageSpec
    from ddfw.contracts.settings import Budget

ConfigT = TypeVar("ConfigT")
T = TypeVar("T")

#: Stands with every figure of a run that --quick scaled down.
QUICK_NOTE = "quick: scaled down, not a figure of the recipe"
#: Version of summary.json.
SUMMARY_SCHEMA = 1
#: Marks a field that summary.json leaves out where it holds nothing.
_SPARSE = {"sparse": True}


@frozen(kw_only=True)
class Baseline:
    """Real images that a learned set is compared with; the table of all stands in `pipeline.evaluation.baselines`.

    Read by the evaluator, the tables and the forecast.

    Args:
        name: what users write in `eval.baselines`; the `subject` of its rows.
        title: the words for it in tables.
        selection: how images are chosen: at random, nearest to the centres of k-means clusters, by herding, or all.
        compared_by: by what k-means and herding compare images: their values in training space, or their features in
            the run's first expert after its last epoch.
        labels: the images' own classes, or probabilities that the experts give.
        equal: what it has in common with the learned set: stored floats, or the number of images; `nothing` for all
            images.
    """

    name: str
    title: str
    selection: Literal["random", "kmeans", "herding", "all"]
    compared_by: Literal["pixels", "features"] = "pixels"
    labels: Literal["hard", "teacher"] = "hard"
    equal: Literal["floats", "count", "nothing"] = "floats"

    @property
    def needs_experts(self) -> bool:
        """Whether trained experts select the images or label them."""
        return self.compared_by == "features" or self.labels == "teacher"

    def label_floats(self, spec: ImageSpec) -> int:
        """Floats that the label of one image stores: m probabilities of the teachers, 0 for a class."""
        return spec.num_classes if self.labels == "teacher" else 0

    def price(self, spec: ImageSpec, budget: Budget) -> int:
        """Floats that one image costs with its label, under the budget's accounting."""
        return spec.floats_per_image + budget.label_price(self.label_floats(spec))

    def images_per_class(self, spec: ImageSpec, budget: Budget, floats: int, per_class: int) -> int:
        """How many images of each class it has, at least one.

        Args:
            spec: shape of the images and number of classes.
            budget: says whether labels are paid for.
            floats: what may be stored, for `equal = "floats"`.
            per_class: images of each class in the learned set, for `equal = "count"`.
        """
        if self.equal == "count":
            return per_class
        return max(1, floats // (spec.num_classes * self.price(spec, budget)))


@frozen(kw_only=True)
class ForeignCode:
    """Where a component comes from that is not built in.

    Args:
        package: name and version of its distribution.
        sha256: of the file that its class is written in, "" where there is none.
    """

    package: str
    sha256: str


@frozen(kw_only=True)
class ResolvedRun(Generic[ConfigT]):
    """A configuration after every layer was merged: nothing later in a run serialises or hashes it again.

    Made by `config.load.resolve`; read by the runner, the run directory, resume, fingerprints and the card.

    Args:
        config: the `RunConfig`.
        tables: the same as the tables of a configuration file.
        text: the content of config.toml, which runs again.
        sha256: of that text.
        foreign: by kind, where each component comes from that is not built in.
        origins: for dotted paths (`param.rank`), which layer of settings set them; they change no result.
    """

    config: ConfigT
    tables: Mapping[str, Any]
    text: str
    sha256: str
    foreign: Mapping[str, ForeignCode]
    origins: Mapping[str, str] = field(factory=dict)

    @property
    def sources(self) -> dict[str, str]:
        """By kind, the hash of the code of each component that is not built in."""
        return {kind: code.sha256 for kind, code in self.foreign.items()}

    def component_key(self, kind: str) -> dict[str, Any]:
        """A component's name and options, and where it comes from unless it is built in; JSON-able.

        Args:
            kind: its table in the configuration, `model`.
        """
        code = self.foreign.get(kind)
        return {**self.tables[kind], **({"from": code.package, "source": code.sha256} if code is not None else {})}


@frozen(kw_only=True)
class SummaryRow:
    """Test accuracy of networks trained on one set.

    Args:
        subject: `distilled`, or the name of a baseline.
        mean: test accuracy, a fraction: the mean over `n` networks.
        std: sample standard deviation over the networks.
        n: how many networks.
        floats: what the set stores, {strict: with its labels, pixels: without}.
        images: how many images it has.
        lr: learning rate of the networks.
        notes: what a reader of the figure has to know.
        source: the run that found this row before and read the test split for it; "" for a row of this run.
        net: key of the other network of `[cross]`, "" for the run's own; it then has no place in summary.json.
    """

    net: str = field(default="", metadata=_SPARSE)
    subject: str
    mean: float
    std: float
    n: int
    floats: Mapping[str, int]
    images: int
    lr: float
    notes: Sequence[str] = ()
    source: str = field(default="", metadata=_SPARSE)


@frozen(kw_only=True)
class StoredFloats:
    """What a run may store, and what its set does.

    Args:
        floats: the budget.
        accounting: `strict` (labels are paid from the budget) or `pixels` (labels are free).
        strict: floats that the set stores, labels included.
        pixels: floats that the set stores without its labels.
        over_budget: whether `strict` is more than the budget.
    """

    floats: int
    accounting: str
    strict: int
    pixels: int
    over_budget: bool


@frozen(kw_only=True)
class Summary:
    """What a finished run found: the content of summary.json.

    Made by `pipeline.report.summary`; read by the tables, by comparisons and by sweeps. `summary["rows"]` gives the
    parts as they stand in the file.

    Args:
        recipe: the recipe's name.
        seed: `run.seed`.
        rows: the distilled set first, then the baselines.
        cross: the same on the networks of `[cross]`.
        cross_diverged: {net, subject, reason} of what could not be trained on such a network.
        quick: whether `--quick` scaled the run down.
        budget: floats stored, and how many there may be.
        images_per_class: learned images of each class.
        outer_steps: how many there were.
        selected_step: the outer step that was kept.
        selected_by: the split that chose it.
        selected_accuracy: its accuracy on that split, a fraction.
        skipped_steps: outer steps that changed nothing (`outer.skip_above`).
        step_size: the learned inner step size.
        trajectories: bytes that the trajectory source stores, and number of experts.
        seconds: of each stage.
        device: what the executor says of it.
        test_reads: how often the run has read the test split, killed evaluations and those before it was extended
            included.
        extended_from: the outer steps from which the finished run was extended, in their order.
    """

    recipe: str
    seed: int
    rows: tuple[SummaryRow, ...]
    cross: tuple[SummaryRow, ...] = field(default=(), metadata=_SPARSE)
    cross_diverged: tuple[Mapping[str, str], ...] = field(default=(), metadata=_SPARSE)
    quick: bool = field(default=False, metadata=_SPARSE)
    budget: StoredFloats
    images_per_class: int
    outer_steps: int
    selected_step: int
    selected_by: str
    selected_accuracy: float
    skipped_steps: int
    step_size: float
    trajectories: Mapping[str, int]
    seconds: Mapping[str, float]
    device: Mapping[str, Any]
    test_reads: int = 1
    extended_from: tuple[int, ...] = field(default=(), metadata=_SPARSE)

    @property
    def distilled(self) -> SummaryRow:
        """The row of the learned set."""
        return next(row for row in self.rows if row.subject == "distilled")

    def to_json(self) -> dict[str, Any]:
        """The content of summary.json; parts that are empty are left out."""

        def kept(part: attrs.Attribute[Any], value: object) -> bool:
            return bool(value) or not part.metadata.get("sparse")

        return {"schema": SUMMARY_SCHEMA, **asdict(self, filter=kept, retain_collection_types=False)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Summary:
        """The summary that a file holds; parts that a newer version added are passed over.

        Raises:
            KeyError, TypeError, ValueError: a part is missing or garbled.
        """

        def made(part: type[T], table: Mapping[str, Any], **parts: Any) -> T:
            names = {f.name for f in attrs.fields(part)}  # type: ignore[arg-type]
            return part(**{key: value for key, value in {**table, **parts}.items() if key in names})

        parts = {key: tuple(made(SummaryRow, row) for row in record.get(key, ())) for key in ("rows", "cross")}
        lists = {key: tuple(record.get(key, ())) for key in ("cross_diverged", "extended_from")}
        return made(cls, record, **parts, **lists, budget=made(StoredFloats, record["budget"]))

    def __getitem__(self, key: str) -> Any:
        return self.to_json()[key]


@frozen(kw_only=True)
class Forecast:
    """What a run is expected to cost, measured in a few seconds before it is started.

    Args:
        seconds: by the clock, of each stage (`experts`, `distill`, `evaluate`) and in `total`; None where they could
            not be predicted.
        cpu_seconds: likewise what this process's threads spend on processors together. On a machine that other
            programs use, too, it is what a run needs, and `seconds` how long one waits for it.
        peak_bytes: memory at the worst moment, by what it is needed for; None where it could not be predicted.
        peak_stage: when that moment is: in `loading` or in one of the stages.
        device: whose memory it is: of the process for `cpu`, of the device alone elsewhere.
        available_bytes: what could be allocated there when it was measured; None where nobody can say.
        held_steps: how many step graphs the run will hold.
        workers: processes that share the training of experts and evaluation networks; 0 for none.
        reasons: why `seconds` or `peak_bytes` are None, by these names.
    """

    seconds: Mapping[str, float] | None = None
    cpu_seconds: Mapping[str, float] | None = None
    peak_bytes: Mapping[str, int] | None = None
    peak_stage: str = ""
    device: str = ""
    available_bytes: int | None = None
    held_steps: int | None = None
    workers: int | None = None
    reasons: Mapping[str, str] = field(factory=dict)


@frozen(eq=False)
class Card(Mapping[str, Any]):
    """What a learned set is, how to load it and what it costs: the content of card.json, or of nothing for other sets.

    Made by `pipeline.report.card`; read by `load`, `export`, `eval` and a warm start. It is the mapping that the file
    holds; each property is a fact that ddfw itself reads. Cards may come from anyone: a property of something that is
    missing or garbled raises KeyError, TypeError or ValueError where it says so, and is empty otherwise.

    Args:
        content: as the file has it.
    """

    content: Mapping[str, Any] = field(factory=dict)

    def __getitem__(self, key: str) -> Any:
        return self.content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)

    def _part(self, name: str) -> Mapping[str, Any]:
        part = self.content.get(name, {})
        return part if isinstance(part, Mapping) else {}

    @property
    def what(self) -> str:
        """The set in words."""
        return str(self.content.get("what", "a learned set"))

    @property
    def format(self) -> str:
        """The format of an export, "" for a run's own set."""
        form = self.content.get("format", "")
        if not isinstance(form, str):
            raise TypeError("'format'")
        return form

    @property
    def hashes(self) -> Mapping[str, str]:
        """The sha256 of each file of the set, by name. Raises where they are missing or garbled."""
        return {name: str(sha256) for name, sha256 in dict(self.content["sha256"]).items()}

    @property
    def step_size(self) -> float:
        """The learned inner step size. Raises where it is missing or garbled."""
        return float(self.content["step_size"])

    @property
    def step(self) -> int:
        """The outer step that was kept. Raises where it is missing or garbled."""
        return int(self.content["selected"]["step"])

    @property
    def selected_by(self) -> Literal["validation", "nothing"]:
        """The split that chose the step."""
        return "validation" if self._part("selected").get("by") == "validation" else "nothing"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in their order. Raises where they are missing or garbled."""
        return tuple(self.content["source_data"]["class_names"])

    @property
    def source(self) -> tuple[object, object]:
        """Name of the data set that it was learned from, and the sha256 of its images."""
        part = self._part("source_data")
        return part.get("name"), part.get("sha256")

    @property
    def floats(self) -> Mapping[str, int] | None:
        """What the set stores, {strict, pixels}; None where the card does not say."""
        try:
            return {key: int(self.content["floats"][key]) for key in ("strict", "pixels")}
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def over_budget(self) -> bool:
        """Whether the set stores more than its budget."""
        return bool(self._part("floats").get("over_budget"))

    @property
    def imported_experts(self) -> bool:
        """Whether its experts were trained elsewhere."""
        return bool(self._part("experts").get("imported"))

    @property
    def quick(self) -> bool:
        """Whether `--quick` scaled the run down."""
        return bool(self.content.get("quick"))

    def component(self, kind: str) -> Mapping[str, Any] | None:
        """The table of a component, None where the card has none.

        Args:
            kind: the kind's id, `model`.
        """
        table = self._part("components").get(kind)
        return table if isinstance(table, Mapping) else None


def as_card(content: Mapping[str, Any]) -> Card:
    """A card, made of a mapping that is none yet."""
    return content if isinstance(content, Card) else Card(content)
