"""Summarise a network: its figures, unit by unit, next to the published ones."""

from netkit.deploy.plain import plain
from netkit.graph.memory import planned_memories, planned_memory
from netkit.graph.naming import original_form
from netkit.graph.nodes import Graph
from netkit.graph.units import analyse
from netkit.published import PUBLISHED

BATCH = 32  # images of the training step whose memory is planned


def units_of(target):
    """Return the units of a Target with their figures."""
    return analyse(plain(Graph.of(target.symbol)), target.image_shape)


def summarise(target, with_units=True):
    """Return the summary of a Target, as a dict for JSON.

    `macs` and `plan_mb` are for one image; `plan_mb` is MXNet's planned memory of feature maps and their gradients in a
    training step of BATCH images, in MB of 2^20 bytes; that of a unit is for the unit by itself.
    """
    units = units_of(target)
    summary = {
        'network': target.label,
        'input': list(target.image_shape[:2]),
        'output': list(units[-1].output),
        'parameters': sum(unit.parameters for unit in units),
        'saved_by_sharing': sum(unit.unshared - unit.parameters for unit in units),
        'macs': sum(unit.macs for unit in units),
        'plan_mb': planned_memory(target.symbol, BATCH, target.image_shape) / BATCH,
    }
    if with_units:
        plans = planned_memories(target.symbol, target.image_shape, BATCH)
        summary['units'] = [
            {
                'unit': unit.name,
                'stage': unit.stage,
                'output': list(unit.output),
                'width': unit.width,
                'num_group': unit.num_group,
                'sharing': unit.sharing,
                'parameters': unit.parameters,
                'macs': unit.macs,
                'plan_mb': plans[unit.name] / BATCH,
            }
            for unit in units
        ]
        original = target.network and original_form(target.network)
        if original in PUBLISHED:  # a user's own network is not
            summary['published'] = dict(PUBLISHED[original]._asdict(), network=original)
    return summary
