"""What a run trains, and what it begins with."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, FilePath, model_validator

from console import Arguments, ArgumentsAsText, PlanArgumentsAsText


class LearnedSettings(BaseModel):
    """Mixed into the settings of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = Field("digits", description="built-in task (digits, breast-cancer), module:object or file.py:object")
    script: FilePath | None = Field(
        None,
        description="training script with a loop of its own, over fedmq.rounds(model), in place of --task: it is run as"
        " far as that, for its model; its own flags come last, after --",
    )
    task_args: ArgumentsAsText = Field(
        Arguments(), description="name=value for the task here, in site.args, such as csv=/data/a.csv; once for each"
    )
    plan_args: PlanArgumentsAsText = Field(  # text becomes them; `local` has a dict again
        Arguments(flag="--plan-arg"),
        description="name=value for the task at every site, in plan.args, such as temperature=0.5; once for each",
    )
    init: Path | None = Field(
        None,
        description="safetensors file, such as another run's models/last.safetensors, whose tensors a new run begins"
        " with; by default with those of the task's own model",
    )
    evaluate_only: bool = Field(
        False,
        description="train nothing: all workers measure one model, that of --init or, where --state holds a run, its"
        " last; quorum, deadline and all else as in a round",
    )
    statistics: FilePath | None = Field(
        None,
        description="statistics.json of fl-statistics: what it says of all sites' samples is told to every task, in"
        " plan.statistics and prepare(), so that sites scale alike; a run keeps what it began with",
    )

    @model_validator(mode="after")
    def _one_thing_is_trained(self) -> Self:
        if self.script is not None and self.task != type(self).model_fields["task"].default:
            raise ValueError("give --task or --script: a script has its own model, and trains in a loop of its own")
        return self

    @model_validator(mode="after")
    def _begins_from_safetensors(self) -> Self:
        if self.init is not None and self.init.suffix.lower() != ".safetensors":
            raise ValueError(
                f"--init {self.init}: it takes a .safetensors file; of a run, `fl-model export STATE --to"
                " model.safetensors` makes one, of a state dict `safetensors.torch.save_model`"
            )
        return self

    @property
    def learns(self) -> str:
        """What the run trains, as the ledger records it."""
        return self.task if self.script is None else self.script.name
