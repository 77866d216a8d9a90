"""Faults of what a run is tracked with."""

import base64
import json
import os
from random import Random
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

from typing_extensions import override

from launcher.devcluster.chaos.fault import ChaosFault
from launcher.devcluster.chaos.target import ChaosTarget
from launcher.errors import LauncherError
from launcher.run.record import RunRecord
from launcher.run.wandb_server import DEFAULT_SERVER

_TIMEOUT = 30
_FIND = "query Run($project: String!, $entity: String, $name: String!) " \
    "{ project(name: $project, entityName: $entity) { run(name: $name) { id } } }"  # fmt: skip
_DELETE = "mutation DeleteRun($id: ID!) { deleteRun(input: {id: $id}) { clientMutationId } }"


class DeleteWandbRun(ChaosFault):
    """Somebody deletes the W&B run while it is being written, as one does in the web interface."""

    name = "delete-wandb-run"
    phases = ("training",)
    until = 5.0

    @override
    def why_not(self, target: ChaosTarget) -> str:
        """There must be one, and a key that may delete it."""
        if target.recipe["tracking"]["mode"] != "online":
            return "tracking.mode is not `online`"
        return "" if os.environ.get("WANDB_API_KEY") else "WANDB_API_KEY is not set"

    @override
    def inject(self, target: ChaosTarget, rng: Random) -> str:
        """Delete it."""
        name, tracking = RunRecord.read(target.run.record).wandb_id, target.recipe["tracking"]
        place = {"project": tracking["project"], "entity": tracking["entity"], "name": name}
        found = (_ask(target, "Run", _FIND, place).get("project") or {}).get("run")
        if not found:
            return f"W&B has no run {name}"
        _ask(target, "DeleteRun", _DELETE, {"id": found["id"]})
        return f"W&B run {name} deleted"


def _ask(target: ChaosTarget, operation: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    """Ask the W&B server that the run is tracked at.

    Raises:
        LauncherError: It does not answer, or refuses.
    """
    server = target.profile.get("wandb_base_url") or os.environ.get("WANDB_BASE_URL") or DEFAULT_SERVER
    key = base64.b64encode(f"api:{os.environ['WANDB_API_KEY']}".encode()).decode()
    body = json.dumps({"operationName": operation, "query": query, "variables": variables}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {key}"}
    request = Request(f"{server}/graphql", body, headers)  # noqa: S310 - the address of the site
    try:
        with urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310 - likewise
            told = json.loads(answer.read())
    except (URLError, ValueError) as error:
        raise LauncherError(f"chaos: W&B does not answer {operation}: {error}") from None
    if told.get("errors"):
        raise LauncherError(f"chaos: W&B refuses {operation}: {told['errors'][0].get('message')}")
    found: dict[str, Any] = told.get("data") or {}
    return found
