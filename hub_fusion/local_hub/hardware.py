"""The machines that Spaces and jobs may ask for. None is here: they are names to check and sizes to show.

Sizes and prices per hour as the Hub publishes them (https://huggingface.co/docs/hub/jobs-pricing), so that a cost can
be rehearsed; nothing is charged here.
"""

from typing import Any, NamedTuple

from starlette.responses import Response

from hub_fusion.local_hub.call import Call, Route, answer
from hub_fusion.local_hub.errors import HubError


class Flavor(NamedTuple):
    """Memory, storage and VRAM (of all GPUs together) in GB, price in US dollars an hour."""

    name: str
    pretty: str
    cpus: int
    ram: int
    disk: int
    usd: float
    gpus: int = 0
    model: str = ""
    vram: int = 0


JOB_FLAVORS = {
    flavor.name: flavor
    for flavor in (
        Flavor("cpu-basic", "CPU Basic", 2, 16, 50, 0.01),
        Flavor("cpu-upgrade", "CPU Upgrade", 8, 32, 50, 0.03),
        Flavor("cpu-performance", "CPU Performance", 32, 256, 1024, 1.90),
        Flavor("cpu-xl", "CPU XL", 16, 124, 1000, 1.00),
        Flavor("t4-small", "Nvidia T4 - small", 4, 15, 50, 0.40, 1, "T4", 16),
        Flavor("t4-medium", "Nvidia T4 - medium", 8, 30, 100, 0.60, 1, "T4", 16),
        Flavor("l4x1", "1x Nvidia L4", 8, 30, 400, 0.80, 1, "L4", 24),
        Flavor("l4x4", "4x Nvidia L4", 48, 186, 3200, 3.80, 4, "L4", 96),
        Flavor("l40sx1", "1x Nvidia L40S", 8, 62, 380, 1.80, 1, "L40S", 48),
        Flavor("l40sx4", "4x Nvidia L40S", 48, 382, 3200, 8.30, 4, "L40S", 192),
        Flavor("l40sx8", "8x Nvidia L40S", 192, 1534, 6500, 23.50, 8, "L40S", 384),
        Flavor("a10g-small", "Nvidia A10G - small", 4, 15, 110, 1.00, 1, "A10G", 24),
        Flavor("a10g-large", "Nvidia A10G - large", 12, 46, 200, 1.50, 1, "A10G", 24),
        Flavor("a10g-largex2", "2x Nvidia A10G - large", 24, 92, 1000, 3.00, 2, "A10G", 48),
        Flavor("a10g-largex4", "4x Nvidia A10G - large", 48, 184, 2000, 5.00, 4, "A10G", 96),
        Flavor("a100-large", "Nvidia A100 - large", 12, 142, 1000, 2.50, 1, "A100", 80),
        Flavor("a100x4", "4x Nvidia A100", 48, 568, 4000, 10.00, 4, "A100", 320),
        Flavor("a100x8", "8x Nvidia A100", 96, 1136, 8000, 20.00, 8, "A100", 640),
        Flavor("h200", "Nvidia H200", 23, 256, 3000, 5.00, 1, "H200", 141),
        Flavor("h200x2", "2x Nvidia H200", 46, 512, 6000, 10.00, 2, "H200", 282),
        Flavor("h200x4", "4x Nvidia H200", 92, 1024, 12000, 20.00, 4, "H200", 564),
        Flavor("h200x8", "8x Nvidia H200", 184, 2048, 24000, 40.00, 8, "H200", 1128),
        Flavor("rtx-pro-6000", "Nvidia RTX PRO 6000", 23, 256, 475, 2.75, 1, "RTX PRO 6000", 96),
        Flavor("rtx-pro-6000x2", "2x Nvidia RTX PRO 6000", 46, 512, 950, 5.50, 2, "RTX PRO 6000", 192),
        Flavor("rtx-pro-6000x4", "4x Nvidia RTX PRO 6000", 92, 1024, 1900, 11.00, 4, "RTX PRO 6000", 384),
        Flavor("rtx-pro-6000x8", "8x Nvidia RTX PRO 6000", 184, 2048, 3800, 22.00, 8, "RTX PRO 6000", 768),
    )
}
ONLY_JOBS = ("cpu-performance", "cpu-xl", "h200", "h200x2", "h200x4", "h200x8")
DEFAULT = "cpu-basic"
SPACE_FLAVORS = {name: flavor for name, flavor in JOB_FLAVORS.items() if name not in ONLY_JOBS}
SPACE_FLAVORS[DEFAULT] = SPACE_FLAVORS[DEFAULT]._replace(usd=0.0)
# shared by all Spaces that have it, without a machine of its own; its price is a subscription
SPACE_FLAVORS["zero-a10g"] = Flavor("zero-a10g", "ZeroGPU", 0, 0, 0, 0.0, 1, "shared", 0)


def check_flavor(value: object, known: dict[str, Flavor]) -> str:
    """The name of a machine; 400 with all of them if it is none."""
    if not isinstance(value, str) or value not in known:
        raise HubError(400, f"No such hardware; there are {', '.join(known)}.")
    return value


def _show(flavor: Flavor) -> dict[str, Any]:
    accelerator = {
        "type": "gpu",
        "model": flavor.model,
        "quantity": str(flavor.gpus),
        "vram": f"{flavor.vram} GB" if flavor.vram else "shared",
        "manufacturer": "Nvidia",
    }
    return {
        "name": flavor.name,
        "prettyName": flavor.pretty,
        "cpu": f"{flavor.cpus} vCPU" if flavor.cpus else "shared",
        "ram": f"{flavor.ram} GB" if flavor.ram else "shared",
        "ephemeralStorage": f"{flavor.disk} GB" if flavor.disk else "shared",
        "accelerator": accelerator if flavor.gpus else None,
        "unitCostMicroUSD": round(flavor.usd / 60 * 1e6),
        "unitCostUSD": round(flavor.usd / 60, 6),
        "unitLabel": "minute",
    }


def of_jobs(call: Call) -> Response:
    """What `run_job` takes as a flavor."""
    return answer([_show(flavor) for flavor in JOB_FLAVORS.values()])


def of_spaces(call: Call) -> Response:
    """What `request_space_hardware` takes."""
    return answer([_show(flavor) for flavor in SPACE_FLAVORS.values()])


ROUTES = [Route("GET", "/api/jobs/hardware", of_jobs), Route("GET", "/api/spaces/hardware", of_spaces)]
