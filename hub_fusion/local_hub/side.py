"""Calls the client makes beside the point: who am I, telemetry, agent harnesses."""

import json
from typing import Any

from starlette.responses import Response

from hub_fusion.local_hub.call import Call, Route, answer
from hub_fusion.local_hub.db import iso
from hub_fusion.local_hub.errors import sign_in_first


def whoami(call: Call) -> Response:
    """The account behind the token and its organisations."""
    user = call.user
    if user is None:
        raise sign_in_first()
    with call.store.db.read() as con:
        orgs = [
            {
                "type": "org",
                "id": row["hex"],
                "name": row["name"],
                "fullname": row["fullname"] or row["name"],
                "roleInOrg": row["role"],
                "isEnterprise": False,
            }
            for row in con.execute(
                "SELECT accounts.hex, name, fullname, role FROM members JOIN accounts ON accounts.id=org WHERE user=?"
                " ORDER BY name",
                (user.id,),
            )
        ]
    token: dict[str, Any] = {"displayName": user.label, "role": user.role, "createdAt": iso(user.created)}
    if user.fine_grained:
        token["fineGrained"] = json.loads(user.fine_grained)
    return answer(
        {
            "type": user.kind,
            "id": user.hex,
            "name": user.name,
            "fullname": user.fullname or user.name,
            "email": None,
            "emailVerified": True,
            "canPay": False,
            "isPro": False,
            "periodEnd": None,
            "avatarUrl": f"{call.base}/avatars/{user.name}.svg",
            "orgs": orgs,
            "auth": {"type": "access_token", "accessToken": token},
        }
    )


def agent_harnesses(call: Call) -> Response:
    """None are known here."""
    return answer({"standardEnvVars": [], "harnesses": {}})


def telemetry(call: Call) -> Response:
    """Taken and forgotten."""
    return Response(status_code=200)


def health(call: Call) -> Response:
    """For those who wait for the server to come up."""
    return answer({"ok": True})


ROUTES = [
    Route("GET", "/api/whoami-v2", whoami),
    Route("GET", "/api/agent-harnesses", agent_harnesses, token=False),
    Route("HEAD", "/api/telemetry/{topic:path}", telemetry, token=False),
    Route("GET", "/api/health", health, token=False),
]
