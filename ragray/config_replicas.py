"""How many copies of each served part run, and where: the settings behind Ray Serve's deployments.

In: nothing. Out: a part of `config.RunConfig`, typed, frozen models with their defaults and limits.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ragray.config_data import Positive, Section

Seconds = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Part = Literal["ingress", "retriever", "shard", "generator"]


class AutoscaleConfig(Section):
    """Copies that come and go with the load.

    A stream counts as one request from its first byte to its last, so a copy leaves only after its streams.
    """

    min_replicas: Positive = Field(1, description="never fewer copies")
    max_replicas: Positive = Field(2, description="never more copies")
    target_ongoing_requests: float = Field(
        8.0, gt=0.0, allow_inf_nan=False, description="requests that one copy should have at a time"
    )
    look_back_s: float = Field(10.0, gt=0.0, allow_inf_nan=False, description="load is averaged over so many seconds")
    upscale_delay_s: Seconds = Field(5.0, description="load must last so long before copies are added, seconds")
    downscale_delay_s: Seconds = Field(60.0, description="quiet must last so long before copies end, seconds")

    @model_validator(mode="after")
    def _check_limits(self) -> AutoscaleConfig:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is more than max_replicas {self.max_replicas}")
        return self


class PlacementConfig(Section):
    """What each copy of one part reserves. Ray starts it on a node that has all of it."""

    num_cpus: float | None = Field(
        None, ge=0.0, allow_inf_nan=False, description="CPUs of each copy; none: 1 where the generator is, else 0"
    )
    resources: dict[str, float] = Field({}, description="custom resources of the nodes, by name")
    accelerator_type: str | None = Field(None, description="only on nodes with this type, such as H100")
    autoscaling: AutoscaleConfig | None = Field(
        None, description="none: always as many copies as `*_replicas` says; else as many at the start"
    )


class PlacementsConfig(Section):
    """Where the parts of the served application run."""

    ingress: PlacementConfig = PlacementConfig()
    retriever: PlacementConfig = PlacementConfig()
    shard: PlacementConfig = PlacementConfig()
    generator: PlacementConfig = PlacementConfig()

    def check_start(self, part: Part, replicas: int) -> None:
        """Nothing where a part may start with so many copies.

        Raises:
            ValueError: autoscaling does not allow that number.
        """
        placement: PlacementConfig = getattr(self, part)
        scale = placement.autoscaling
        if scale is not None and not scale.min_replicas <= replicas <= scale.max_replicas:
            raise ValueError(
                f"serve.{part}_replicas: {replicas} at the start, but serve.placement.{part}.autoscaling allows "
                f"{scale.min_replicas} to {scale.max_replicas}"
            )
