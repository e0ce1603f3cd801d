"""Models measured on the same text under the same masks, and what can be said about them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from starquant_fx.evaluation.agreement import Agreement, agreement, require_reference
from starquant_fx.evaluation.alignment import Model
from starquant_fx.evaluation.checks import require_fit
from starquant_fx.evaluation.intervals import Interval, mean_interval
from starquant_fx.evaluation.masks import MaskPlan
from starquant_fx.evaluation.nelbo import nelbo
from starquant_fx.evaluation.timing import Timed


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured of one model.

    Attributes:
        nelbo: [N] float64, nats per token, one a segment.
        agreement: Agreement with the reference, and accuracy, by mask ratio and segment.
        seconds: Time in the model's forward passes, the same ones for every model.
    """

    nelbo: Tensor
    agreement: Agreement
    seconds: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Measurements of several models; every interval is a 95 % bootstrap interval over segments.

    Attributes:
        reference: Name of the model that the others are compared with.
        plan: The masks.
        measurements: Name -> measurement, in the order the models were given.
    """

    reference: str
    plan: MaskPlan
    measurements: dict[str, Measurement]

    def nelbo(self, name: str) -> Interval:
        """NELBO of a model in nats per token; the interval says how much it varies with the text."""
        return mean_interval(self.measurements[name].nelbo)

    def gap(self, name: str, to: str | None = None) -> Interval:
        """NELBO of a model minus that of another (the reference by default), paired by segment."""
        other = self.measurements[self.reference if to is None else to]
        return mean_interval(self.measurements[name].nelbo - other.nelbo)

    def by_ratio(self, name: str, figure: str) -> tuple[Interval, ...]:
        """A figure of ``Agreement`` (top1, kl, accuracy, drift, signed_drift) at each mask ratio."""
        return tuple(
            mean_interval(row) for row in getattr(self.measurements[name].agreement, figure)
        )


def compare(
    models: Mapping[str, Model],
    segments: Tensor,
    plan: MaskPlan,
    reference: str = "full precision",
    *,
    batch: int = 8,
) -> Comparison:
    """Measures models on the same segments under the same masks.

    Args:
        models: Name -> denoiser with ``config.mask_token_id``, the reference among them.
        segments: [N, L] token ids, N >= 2, without padding.
        plan: Masks for these segments.
        reference: Name of the model to compare with.
        batch: Segments a forward pass; memory grows with batch · L · V.

    Returns:
        The comparison.

    Raises:
        InputError: Models, segments and plan do not fit each other, or there is no such reference.
        StarQuantError: A model's logits give no finite loss; the error names the model.
    """
    require_reference(models, reference)
    require_fit(models, segments, plan)
    timed = {name: Timed(model) for name, model in models.items()}
    bounds = {
        name: nelbo(model, segments, plan, batch=batch, name=name) for name, model in timed.items()
    }
    agreements = agreement(timed, segments, plan, reference, batch=batch)
    return Comparison(
        reference,
        plan,
        {name: Measurement(bounds[name], agreements[name], timed[name].seconds) for name in models},
    )
