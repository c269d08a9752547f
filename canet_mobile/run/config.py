"""Everything a training run can be told, in one frozen dataclass, and where each value came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from canet_mobile.errors import UsageError, unknown_name
from canet_mobile.model.space import RoutingSpace

RECIPES = ("sandwich", "rows", "paper", "averaged", "taught")
SASREC_RECIPES = ("averaged", "taught")  # the others are CANet's: a SASRec is plain under them
PAPER_COSTS = "paper"
# What younger keys were before they existed: a run without them goes on, and is recorded, as it began.
BEFORE: Mapping[str, Any] = {
    "residual_power": 0.0,
    "beta2": 0.999,
    "moving": False,
    "cooccurrence": 0.0,
    "polish": 0,
}


@dataclass(frozen=True)
class TrainConfig:
    """Configuration of a run. Lengths in items, widths in channels, lr per step.

    Args:
        model: ``canet``; ``sasrec`` for the plain model (one route, no router); or a compared method, which
            is as large as the largest submodel of the routing space.
        recipe: ``sandwich`` (each batch trains the largest, the smallest and a random route, distilling),
            ``rows`` (each row of a batch trains one route), ``paper`` (Eq. 7-9 jointly); a SASRec is trained
            on the targets alone, and kept as it is, unless it is ``averaged`` (the average of its weights is
            kept) or ``taught`` (that average is half of its teacher, too).
        embedding, hidden, depth: the routing space; a SASRec takes one width and one depth, AutoDim searches
            among the embedding sizes.
        length: input length L.
        windows: newest windows of each history to train on; 0 takes all.
        moving: cut histories longer than L at another place in every epoch, besides their newest window;
            false cuts them into the same windows, end to end, every time.
        batch: rows per step and process.
        epochs: at most; the learning rate's cosine ends here.
        lr, warmup_steps, final_lr: Adam's peak rate, linear warm-up, final share of the peak.
        beta2: how much of its mean of squared gradients Adam keeps at each step; 0.98, as in the code of
            SASRec's authors, forgets twenty times sooner than Adam's usual 0.999, which the paper has.
        tied: ``true`` scores with the item table itself, ``false`` with a classifier of its own; ``auto``
            lets the data set decide (:func:`canet_mobile.run.automatic.ties`).
        residual: the learnable residual weight λ of the first block at the start; 0 lets each block earn its
            influence, any other value also starts attention as a mean of the history.
        residual_power: λ of block n starts at residual / n^residual_power: 0 starts all blocks alike.
        prior: where the classifier's biases start: ``popularity``, the log of how often each item was
            consumed in training, which the first epochs then need not learn; ``none``, at zero.
        average: half-life, in epochs, of the moving average of the weights, which is what is kept and, unless
            averaged, teaches (sandwich, averaged and taught); 0 keeps the weights themselves, and the
            largest route teaches.
        cooccurrence: share of what a teaching average says that comes from who stands near whom in training
            histories instead (:mod:`canet_mobile.data.neighbours`; sandwich and taught); 0 for nothing.
        polish: epochs in which, after the others, only the two routes of the ladder learn, each from the
            users it will serve (:mod:`canet_mobile.train.polish`; sandwich and rows); 0 for none. What comes
            of them is kept where validation users gain.
        dropout, clip: dropout probability; bound of the gradient's norm.
        patience: stop after this many epochs without a better validation NDCG@10.
        seen: protocol of model choice: ``keep``, ``exclude`` (seen items are not recommended again), or
            ``auto``, which lets the data set decide (:func:`canet_mobile.run.automatic.seen_protocol`).
        validation_users: users read for model choice, evenly spaced; 0 takes all.
        router_table: ``own`` has its own item table, ``shared`` reads 32 channels of the supernet's.
        router_label: who gets the larger route first (sandwich and rows): ``entropy``, users of whom the
            small route is unsure; ``confidence``, those of whom it is sure; ``auto``, as validation says.
        budget: average cost the router may spend, as a share of SASRec-full's paper FLOPs
            (sandwich and rows; the paper's recipe cannot be told).
        costs: ``paper`` for paper FLOPs, or a file of what each route was measured to cost on a device; the
            budget is then a share of the largest route's cost.
        escalate: at most this share of users leaves the small route (sandwich and rows).
        guide_k: the smallest submodel is enough for a user when it ranks the target within k (paper).
        lambda_uniform, lambda_guide, tau: weights of Eq. 8 and 9; temperature of Eq. 6 (and of the other
            Gumbel-softmaxes, SkipRec's and AutoDim's).
        lambda_skip: weight of the share of layers kept (SkipRec).
        search_epochs: epochs of the search for embedding sizes, before those of the training (AutoDim).
        max_minutes: stop training after this long; 0 for no limit. Such a run is marked as cut.
        seed: the same seed gives the same result on the same machine.
        precision: ``auto`` is 32-true, on CUDA with TF32 products.
        compile: torch.compile the training step (pays on GPUs, not on CPUs).
        threads: CPU threads; 0 leaves PyTorch's choice.
        accelerator: ``auto``, ``cpu`` or ``cuda``; several processes are started by torchrun.
    """

    model: str = "canet"
    recipe: str = "sandwich"
    embedding: tuple[int, ...] = (64, 96, 128)
    hidden: tuple[int, ...] = (64, 96, 128)
    depth: tuple[int, ...] = (2, 4, 6, 8)
    length: int = 50
    windows: int = 0
    moving: bool = True
    batch: int = 32
    epochs: int = 10
    lr: float = 3e-3
    warmup_steps: int = 100
    final_lr: float = 0.02
    beta2: float = 0.98
    tied: str = "auto"
    residual: float = 1.0
    residual_power: float = 1.0
    prior: str = "none"
    average: float = 0.5
    cooccurrence: float = 0.25
    polish: int = 0
    dropout: float = 0.2
    clip: float = 5.0
    patience: int = 3
    seen: str = "auto"
    validation_users: int = 2000
    router_table: str = "shared"
    router_label: str = "auto"
    budget: float = 0.25
    costs: str = PAPER_COSTS
    escalate: float = 0.75
    guide_k: int = 10
    lambda_uniform: float = 0.01
    lambda_guide: float = 0.01
    tau: float = 1.0
    lambda_skip: float = 0.01
    search_epochs: int = 1
    max_minutes: float = 0.0
    seed: int = 0
    precision: str = "auto"
    compile: bool = False
    threads: int = 0
    accelerator: str = "auto"

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown_name(name, getattr(self, name), known)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UsageError(f"{name} = {value} is out of range", fix=f"give {low} to {high}")
        if self.model == "canet" and len(self.space) < 2:
            raise UsageError("a CANet needs at least two routes to choose from", fix="--model sasrec")
        if self.model == "sasrec" and len(self.space) != 1:
            raise UsageError(
                f"a SASRec has one width and one depth, not {self.space.to_json()}",
                fix="--width 128 --depth 8, or any other size",
            )
        if self.model == "sasrec" and self.embedding != self.hidden:
            raise UsageError(
                f"a SASRec's embedding {self.embedding[0]} must equal its hidden width {self.hidden[0]}",
                fix="--width sets both",
            )
        if self.recipe in SASREC_RECIPES and (self.model != "sasrec" or not self.average):
            raise UsageError(
                f"recipe = {self.recipe} is a SASRec with an average of its weights, "
                f"not model = {self.model} with average = {self.average:g}",
                fix="--model sasrec --set average=0.5, or --set recipe=sandwich",
            )
        if self.model == "nextitnet" and self.embedding[-1] != self.hidden[-1]:
            raise UsageError(
                f"NextItNet has one width, not embedding {self.embedding[-1]} and hidden {self.hidden[-1]}",
                fix=f"--set hidden={self.embedding[-1]}",
            )
        if self.model == "autodim" and len(self.embedding) < 2:
            raise UsageError(
                f"AutoDim needs at least two embedding sizes to choose from, not {list(self.embedding)}",
                fix="--set embedding=64,96,128",
            )
        if self.model == "fpmc" and self.tied == "true":
            raise UsageError("FPMC has no classifier to tie", fix="--set tied=false")

    @property
    def space(self) -> RoutingSpace:
        """The routing space of the three lists."""
        return RoutingSpace(self.embedding, self.hidden, self.depth)

    @property
    def betas(self) -> tuple[float, float]:
        """Both of Adam's betas; the first is as usual."""
        return 0.9, self.beta2

    @property
    def is_tied(self) -> bool:
        """Whether items are scored with their own table; ``auto`` must have been settled."""
        return self.tied == "true"

    def to_json(self) -> dict[str, Any]:
        """Plain values in field order."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


BASELINES = ("fpmc", "gru4rec", "nextitnet", "skiprec", "autodim")
MODELS = ("canet", "sasrec", *BASELINES)
_CHOICES = {
    "model": MODELS,
    "recipe": RECIPES,
    "router_table": ("own", "shared"),
    "router_label": ("auto", "entropy", "confidence"),
    "seen": ("auto", "keep", "exclude"),
    "tied": ("auto", "true", "false"),
    "prior": ("none", "popularity"),
    "accelerator": ("auto", "cpu", "cuda"),
    "precision": ("auto", "32-true", "bf16-mixed", "bf16-true", "16-mixed"),
}
_RANGES: dict[str, tuple[float, float]] = {
    "length": (2, 1000),
    "windows": (0, 10**6),
    "batch": (1, 10**6),
    "epochs": (1, 10**5),
    "lr": (1e-8, 10),
    "warmup_steps": (0, 10**6),
    "final_lr": (0, 1),
    "beta2": (0, 0.9999999),
    "residual": (-10, 10),
    "residual_power": (0, 8),
    "average": (0, 100),
    "cooccurrence": (0, 1),
    "polish": (0, 10**5),
    "dropout": (0, 0.95),
    "clip": (1e-3, 1e6),
    "patience": (1, 10**5),
    "validation_users": (0, 10**9),
    "budget": (0.01, 1),
    "escalate": (0.01, 0.99),
    "guide_k": (1, 10**6),
    "lambda_uniform": (0, 1e3),
    "lambda_guide": (0, 1e3),
    "tau": (1e-3, 1e3),
    "lambda_skip": (0, 1e3),
    "search_epochs": (1, 10**5),
    "max_minutes": (0, 10**6),
    "seed": (0, 2**31 - 1),
    "threads": (0, 4096),
}
KEYS = {field.name: field for field in fields(TrainConfig)}


def _typed(key: str, value: Any, where: object | None) -> Any:
    """Bring one value to its field's type, or say what was expected."""
    default = KEYS[key].default

    def wrong(expected: str) -> UsageError:
        return UsageError(
            f"{key} = {value!r} is not {expected}", where=where, fix=f"for example {key} = {default}"
        )

    if isinstance(default, bool):
        if str(value).lower() not in ("true", "false"):
            raise wrong("true or false")
        return str(value).lower() == "true"
    if isinstance(default, tuple):
        parts = value.strip("[]() ").split(",") if isinstance(value, str) else value
        try:
            return tuple(int(part) for part in (parts if isinstance(parts, list | tuple) else [parts]))
        except (TypeError, ValueError):
            raise wrong("a list of whole numbers") from None
    if isinstance(default, str):
        return str(value).lower() if isinstance(value, bool) else str(value)
    try:
        number = float(value)
        if not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError):
        raise wrong("a number") from None
    if isinstance(default, float):
        return number
    if number != int(number):
        raise wrong("a whole number")
    return int(number)


def apply(config: TrainConfig, changes: Mapping[str, Any], *, where: object | None = None) -> TrainConfig:
    """A configuration with some keys changed.

    Raises:
        UsageError: a key does not exist (the nearest one is suggested) or a value has the wrong type.
    """
    typed: dict[str, Any] = {}
    for key, value in changes.items():
        if key not in KEYS:
            raise unknown_name("configuration key", key, KEYS, where=where)
        typed[key] = _typed(key, value, where)
    return replace(config, **typed)
