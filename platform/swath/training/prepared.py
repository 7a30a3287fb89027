"""What follows from a configuration and its store before anything is trained: computed once a process, handed down.

Only counts and moments of the store are read here, never a pixel.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from patchstore import Store
from swath.config import Config
from swath.models import checkpoint, network, transfer
from swath.patches import certificate, planning
from swath.patches.certificate import Certificate
from swath.patches.planning import PatchPlan
from swath.scoring import counting
from swath.scoring.protocol import Protocol
from swath.splits import division
from swath.splits.division import Split


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """The store, the split and the plans of a run. What costs time and is not always needed is computed at its first
    use."""

    config: Config
    store: Store
    split: Split
    plan: PatchPlan
    """Of the train split."""
    val_plan: PatchPlan

    @classmethod
    def of(cls, config: Config, store: Store, *, split: Split | None = None) -> "Prepared":
        """Divide a store and plan its patches; `split` is given where it is known already.

        Raises DataError where the store cannot serve the configuration.
        """
        split = split or division.divide(store, config.split)
        return cls(config=config, store=store, split=split, plan=planning.plan(store, config, "train", labels=split),
                   val_plan=planning.plan(store, config, "val", labels=split))

    @cached_property
    def protocol(self) -> Protocol:
        """The protocol of the validation score."""
        return counting.protocol(self.store, self.split, "val", self.config)

    @cached_property
    def certificate(self) -> Certificate:
        """The overlap certificate of the split and the train plan."""
        return certificate.certify(self.store, self.split, {"train": self.plan})

    @cached_property
    def costs(self) -> dict[str, float]:
        """Size of the model and of the plan, as metrics of a record.

        The network is built once for it. Raises ConfigError for a network that cannot be built, and CheckpointError
        where `model.init_from` does not fit it.
        """
        config, store = self.config, self.store
        traits = network.DataTraits(bands=store.bands, classes=len(store.classes), dtype=store.dtype,
                                    mean_B=np.zeros(store.bands), std_B=np.ones(store.bands))
        net = network.build(config.model, traits, combine=config.patches.combine, scales=config.patches.scales)
        if config.model.init_from:
            transfer.begin(net, config, checkpoint.ModelCard.of(store))
        cost = network.cost(net, config.patches.size, store.bands)
        return {"model/parameters": cost.parameters, "model/gmacs_per_megapixel": cost.gmacs_per_mpx,
                "plan/patches": len(self.plan), "plan/megapixels": self.plan.megapixels}
