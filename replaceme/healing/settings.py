"""What healing can be told; imports nothing heavy."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from replaceme.amounts import Amount
from replaceme.calibration import CalibrationData, Generated, check_data
from replaceme.calibration.generated import name_generated

VERSION = 1  # changes whenever the same settings would give other numbers
TOKENS = 200_000
LEAST_SAMPLES, MOST_SAMPLES = 16, 100_000
RUNTIME = {"accumulate", "checkpointing"}  # change no numbers, but for their rounding
LAST = 3  # layers of ``tail``, as in arXiv 2411.15558
LEARNING_RATES = {"projection": 3e-3, "mlp": 5e-4, "lora": 2e-3, "tail": 2e-4, "all": 2e-4}
SFT_RATE, SFT_DROPOUT = 2e-5, 0.05  # as published, with lora of rank 16
OF_SFT = {"objective", "prompt", "loss_on_prompts", "packing", "dropout"}  # no part of other identities
USUAL = {"sft": {"train": "lora", "max_length": 1024}}  # defaults that depend on the objective

Objective = Literal["distillation", "sft"]
Part = Literal["projection", "mlp", "lora", "tail", "all"]


class Training(BaseModel):
    """What is trained of a pruned model, for how long, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    objective: Objective = Field(
        "distillation",
        description="distillation: what the intact model predicts; sft: the data's own next tokens",
    )
    train: Part = Field(
        "mlp",
        description="projection: what the solver puts in place of the removed layers; mlp: the output "
        "projections of the MLPs from there on; lora: low-rank changes of all matrices from there on; "
        "tail: the last three layers and the head; all: every tensor from there on. Default of sft: "
        "lora",
    )
    norms: bool = Field(False, description="train the norms from there on as well")
    tokens: Amount | None = Field(
        None, gt=0, description="tokens to train on, such as 200k or 2M; null: 200k, or as seconds allow"
    )
    seconds: float | None = Field(None, gt=0, description="seconds to train for, instead of tokens")
    until: Amount | None = Field(
        None, gt=0, description="leave the training after so many of these tokens; null: at its end"
    )
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="the highest; null: "
        + ", ".join(f"{rate:g} for {part}" for part, rate in LEARNING_RATES.items())
        + f"; of sft {SFT_RATE:g}",
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the budget that it rises in")
    batch_size: int = Field(8, gt=0, description="sequences in a step")
    rank: int | None = Field(None, gt=0, description="of lora; null: 16")
    dropout: float | None = Field(
        None, ge=0, lt=1, description=f"of what enters lora's changes, of sft; null: {SFT_DROPOUT:g}"
    )
    prompt: str | None = Field(
        None, description="of sft: column with the prompts that the texts of the other column complete"
    )
    loss_on_prompts: bool = Field(
        False, description="of sft: learn prompts and what users say as well, not answers alone"
    )
    packing: bool = Field(
        False, description="of sft: put short sequences together, up to max_length tokens"
    )
    checks: int = Field(
        8, gt=0, description="how often text that is held back judges; the best state is kept"
    )
    seed: int = Field(42, ge=0, description="of the order of the text, and of what starts at random")
    accumulate: int = Field(
        1, gt=0, description="forwards that a step is split into; more take less memory"
    )
    checkpointing: bool = Field(
        False, description="compute layers anew in the backward; takes less memory and more time"
    )

    @model_validator(mode="before")
    @classmethod
    def _put_in_usual(cls, said: Any) -> Any:
        """Defaults that depend on the objective."""
        if not isinstance(said, dict) or said.get("objective") not in USUAL:
            return said
        usual = USUAL[said["objective"]]
        return {key: value for key, value in usual.items() if key in cls.model_fields} | said

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.tokens and self.seconds:
            raise ValueError("give either 'tokens' or 'seconds'")
        if self.until:
            self._check_stop("until", self.until)
        lora = self.train == "lora"
        if self.rank and not lora:
            raise ValueError("'rank' belongs to 'train: lora'")
        if self.dropout is not None and not lora:
            raise ValueError("'dropout' belongs to 'train: lora'")
        if self.objective != "sft":
            for name in sorted(OF_SFT - {"objective"}):
                if getattr(self, name) not in (None, False):
                    raise ValueError(f"{name!r} belongs to 'objective: sft'")
        elif self.batch_size % self.accumulate:
            raise ValueError(
                f"a step of {self.batch_size} sequences cannot be split into {self.accumulate} equal "
                f"forwards, as sft needs it"
            )
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"a step of {self.batch_size} sequences cannot be split into {self.accumulate} forwards"
            )
        return self

    def _check_stop(self, name: str, tokens: int) -> None:
        if self.budget is None or tokens >= self.budget:
            whole = f"the {self.budget:,} tokens" if self.budget else "the 'seconds'"
            raise ValueError(
                f"{name!r} lies within 'tokens'; {tokens:,} is not before the end of {whole}"
            )

    @property
    def budget(self) -> int | None:
        """Tokens to train on; ``None``: the time counts."""
        return None if self.seconds else self.tokens or TOKENS

    @property
    def rate(self) -> float:
        """The highest learning rate."""
        return self.learning_rate or (SFT_RATE if self.is_sft else LEARNING_RATES[self.train])

    @property
    def is_sft(self) -> bool:
        return self.objective == "sft"

    def edit_bytes(self, outputs: int, total: int, gaps: int, layers: int) -> int:
        """Bytes of what is trained of one variant as it is saved, at most.

        Args:
            outputs: bytes of the projections that end a layer's attention and MLP, the mean.
            total: bytes of the intact model.
            gaps: places where layers go.
            layers: of the intact model.
        """
        if self.train not in ("projection", "mlp"):
            return total
        at_gaps_alone = self.train == "projection" and not self.norms
        return (gaps if at_gaps_alone else layers) * outputs  # more than norms and an MLP's output

    def parameters(self) -> dict[str, Any]:
        """All that changes numbers, with the defaults put in."""
        said: dict[str, Any] = {name: getattr(self, name) for name in Training.model_fields}
        said |= {"tokens": self.budget, "learning_rate": self.rate}
        if self.train == "lora":
            said["rank"] = self.rank or 16
            said["dropout"] = SFT_DROPOUT if self.dropout is None else self.dropout
        without = RUNTIME if self.is_sft else RUNTIME | OF_SFT
        return {key: value for key, value in said.items() if value is not None and key not in without}


class HealSettings(Training):
    """Training of a pruned model after its solver: toward the intact model's predictions, or on data."""

    score_at: tuple[Amount, ...] = Field(
        (), description="tokens after which what is trained until then is a variant of its own too"
    )
    dataset: str | None = Field(
        None, description="text to train on, as in calibration; null: the calibration text"
    )
    generated: Generated | None = Field(
        None, description="how the intact model writes the text itself, as in calibration"
    )
    subset: str | None = Field(None, description="configuration name of a hub data set")
    split: str = Field("train", description="split, or a part of it such as train[:1000]")
    revision: str | None = Field(None, description="revision of a hub data set; null: its newest")
    column: str = Field("text", description="column with a text, or with a list of chat messages")
    samples: int | None = Field(
        None, gt=0, description="number of sequences at most; null: as many as the budget takes"
    )
    max_length: int = Field(
        256,
        gt=1,
        description="tokens per sequence at most, where dataset is given. Default of sft: 1024",
    )

    @model_validator(mode="after")
    def _check_stops(self) -> Self:
        if self.score_at and self.until:
            raise ValueError("give either 'until' or 'score_at'")
        if len(set(self.score_at)) < len(self.score_at):
            raise ValueError("'score_at' names a number of tokens twice")
        for tokens in self.score_at:
            self._check_stop("score_at", tokens)
        return self

    def spread(self) -> list[Self]:
        """The trainings that end where ``score_at`` says, and the whole one."""
        stops = [*sorted(self.score_at), None]
        return [self.model_copy(update={"score_at": (), "until": tokens}) for tokens in stops]

    @model_validator(mode="after")
    def _check_prompt(self) -> Self:
        if self.prompt and self.dataset is None:
            raise ValueError("'prompt' names a column of 'dataset', which is not given")
        if self.prompt and self.generated:
            raise ValueError("'prompt' names the prompts of given answers; 'column' those to answer")
        if self.prompt and self.text(CalibrationData()).is_plain_text:
            raise ValueError(f"'prompt' names a column, and {self.dataset!r} is a text without columns")
        return self

    _name_generated = model_validator(mode="before")(name_generated)

    def text(self, calibration: CalibrationData) -> CalibrationData:
        """The text to train on: as many sequences as the budget takes, or the calibration's own.

        Of sft the tokens that are read count, and not how many sequences they are.
        """
        if self.dataset is None:
            return calibration
        return CalibrationData(
            dataset=self.dataset,
            generated=self.generated,
            subset=self.subset,
            split=self.split,
            revision=self.revision,
            column=self.column,
            max_length=self.max_length,
            samples=self.samples or self._count_samples(),
            seed=self.seed,
        )

    def check_text(self) -> None:
        """Refuse a data set of which can be seen that it is wrong.

        Raises:
            InputError: saying what.
        """
        data = self.text(CalibrationData())
        for column in filter(None, [data.column, self.prompt]):
            check_data(data.model_copy(update={"column": column}))

    def _count_samples(self) -> int:
        """Sequences that the budget takes, and a tenth more, since a part is held back."""
        if self.budget is None or self.is_sft:
            return MOST_SAMPLES
        return max(LEAST_SAMPLES, -(-11 * self.budget // (10 * self.max_length)))
