"""What `dropfold explain` finds of the pooled units of a run on clouds."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dropfold.explain.run.found import Clouds, Found
from dropfold.explain.run.unit_tables import add_correlations, add_removal, record_damage, unit_rows
from dropfold.explain.units.ablation import To, each_pooled_unit, pooled_layer
from dropfold.explain.units.damage import attributes, damage
from dropfold.explain.units.removal import cumulative_accuracy
from dropfold.models import NETWORKS, PointNet2


def explain_units(clouds: Clouds, found: Found, training: Clouds, logits: Tensor, to: To) -> None:
    """The pooled units, each removed in turn: of the test split, replaced by the mean of `training` clouds or by 0."""
    network: Any = clouds.network
    if not any(isinstance(network, known.classification) for known in NETWORKS.values()):
        return
    trained_on, values = training.pooled.values, clouds.pooled.values
    means = trained_on.means()
    replaced: Any = "zero" if to == "zero" else means
    without = each_pooled_unit(network, values, replaced)
    layer = network.get_submodule(pooled_layer(network))
    layer = layer.layers[-1] if hasattr(layer, "layers") else layer
    known = attributes(
        values, clouds.label, logits.softmax(-1), layer.matrix().weight, network.fc1.matrix().weight
    )
    name = pooled_layer(network)
    in_training = [
        damage(training.logits(), each_pooled_unit(network, trained_on, value), training.label)
        for value in ((replaced,) if replaced is means else (replaced, means))
    ]
    harm = record_damage(found, name, to, logits, without, clouds.label, known, in_training[0])
    add_removal(
        *(found, training, trained_on, in_training[-1]),
        network.fc1.matrix().weight,
        lambda order: cumulative_accuracy(network, values, clouds.label, order, means),
        "Accuracy of the smaller network that is left, without fine-tuning: removed units are folded into the next bias by "
        "their training mean. Units are ranked on training clouds, accuracy is of these.",
        {"L1 of in-weights": known["l1_in"]},
    )
    winners = None  # of PointNet++ they are centres, and the page shows points
    if not isinstance(network, PointNet2):
        winners = clouds.pooled.winners
    won = "" if winners is None else ", each with the point that wins its max"
    found.page["units"] = unit_rows(
        *(found, harm, clouds.names, values.parts[0], known["class_selectivity"]),
        units=f"a unit of {name}",
        drive=f"clouds that drive it{won}",
        winners=winners,
    )
    add_correlations(found)
