"""Whether the site has what the profile names, and what it allows. Pure: Slurm's words in, findings out."""

import re
from collections.abc import Iterator

from launcher.cluster import Cluster
from launcher.doctor.finding import Finding, note, ok, problem
from launcher.run.slurm_text import parse_fields
from launcher.site.limits import SlurmReport
from launcher.site.partitions import GpuNodes, Partition, Site
from launcher.slurm.parse import parse_seconds


def partitions_of(cluster: Cluster, site: Site) -> list[Partition]:
    """List the partitions that the profile's jobs go to: those it names, else the site's default."""
    if cluster.slurm.partition:
        named = cluster.slurm.partition.split(",")
        return [partition for partition in site.partitions if partition.name in named]
    return [partition for partition in site.partitions if partition.is_default]


def partition_findings(cluster: Cluster, site: Site) -> Iterator[Finding]:
    """Say whether the partitions exist, take jobs, and allow enough time."""
    known = ", ".join(partition.name for partition in site.shown_partitions)
    named = cluster.slurm.partition.split(",") if cluster.slurm.partition else []
    for name in named:
        if name in site.closed_partitions:
            yield problem("partition", f"`{name}` starts no jobs now", f"wait, or write another one of {known}")
        elif name not in [partition.name for partition in site.partitions]:
            yield problem("partition", f"the site has no `{name}`", f"write `slurm.partition`: one of {known}")
    found = partitions_of(cluster, site)
    if not named and not found:
        yield problem("partition", "the site has no default partition", f"write `slurm.partition`: one of {known}")
    for partition in found:
        yield _time_finding(cluster, partition, is_named=bool(named))


def _time_finding(cluster: Cluster, partition: Partition, is_named: bool) -> Finding:
    name = f"`{partition.name}`" + ("" if is_named else ", the site's default")
    limit = parse_seconds(partition.max_time) if partition.max_time[:1].isdigit() else None  # else `UNLIMITED`
    lead = cluster.slurm.lead
    if limit is None:
        return ok("partition", f"{name}: no time limit")
    if limit <= lead.seconds:
        fix = f"write a `slurm.lead` shorter than {partition.max_time}, or another partition"
        return problem("partition", f"{name}: at most {partition.max_time}, and runs stop {lead} before", fix)
    return ok("partition", f"{name}: at most {partition.max_time} (`resources.time` of a recipe)")


def access_findings(cluster: Cluster, slurm: SlurmReport) -> Iterator[Finding]:
    """Say whether account, QOS, reservation and constraint exist and fit together."""
    yield from _account_findings(cluster, slurm)
    yield from _qos_findings(cluster, slurm)
    yield from _reservation_findings(cluster, slurm)
    yield from _constraint_findings(cluster, slurm)


def _account_findings(cluster: Cluster, slurm: SlurmReport) -> Iterator[Finding]:
    account = cluster.slurm.account or slurm.site.account
    mine = sorted({association.account for association in slurm.associations or ()})
    if cluster.slurm.account and slurm.associations is not None and not slurm.associations_of(cluster):
        fix = f"write `slurm.account`: one of {', '.join(mine)}" if mine else "ask the site for an account"
        yield problem("account", f"you may not charge `{cluster.slurm.account}`", fix)
        return
    for partition in partitions_of(cluster, slurm.site):
        if account and partition.accounts and account.casefold() not in map(str.casefold, partition.accounts):
            fix = f"write `slurm.account`: one of {', '.join(partition.accounts)}"
            yield problem("account", f"partition `{partition.name}` does not take `{account}`", fix)
            return
    if cluster.slurm.account:
        known = "yours" if slurm.associations is not None else "not checked: accounting does not tell"
        yield ok("account", f"`{cluster.slurm.account}`, {known}")


def _qos_findings(cluster: Cluster, slurm: SlurmReport) -> Iterator[Finding]:
    if cluster.slurm.qos is None:
        return
    name = slurm.qos_of(cluster)
    if slurm.qos is None:
        yield note("QOS", f"`{name}` could not be checked: accounting does not tell", "`launcher submit` will show")
        return
    known = [qos.name for qos in slurm.qos]
    allowed = sorted({qos for association in slurm.associations_of(cluster) for qos in association.qos})
    taken = [(p.name, [*map(str.casefold, p.qos)]) for p in partitions_of(cluster, slurm.site) if p.qos]
    closed = [partition for partition, its in taken if name.casefold() not in its]
    if name not in known:
        yield problem("QOS", f"the site has no `{name}`", f"write `slurm.qos`: one of {', '.join(allowed or known)}")
    elif allowed and name not in allowed:
        yield problem("QOS", f"you may not use `{name}`", f"write `slurm.qos`: one of {', '.join(allowed)}")
    elif closed:
        yield problem("QOS", f"partition `{closed[0]}` does not take `{name}`", "write another `slurm.qos`")
    else:
        yield ok("QOS", f"`{name}`")


def _reservation_findings(cluster: Cluster, slurm: SlurmReport) -> Iterator[Finding]:
    name = cluster.slurm.reservation
    if name is None:
        return
    fields = parse_fields(slurm.reservation or "")
    if fields.get("ReservationName") != name:
        yield problem("reservation", f"the site has no `{name}`", "leave `slurm.reservation` out of the profile")
    elif fields.get("State") != "ACTIVE":
        yield note("reservation", f"`{name}` is not active: {fields.get('StartTime')} to {fields.get('EndTime')}")
    else:
        yield ok("reservation", f"`{name}` until {fields.get('EndTime')}")


def _constraint_findings(cluster: Cluster, slurm: SlurmReport) -> Iterator[Finding]:
    constraint = cluster.slurm.constraint
    if constraint is None:
        return
    has = {name for p in partitions_of(cluster, slurm.site) for name in slurm.features.get(p.name, ())}
    wanted = [re.sub(r"\*\d+$", "", word) for word in re.split(r"[&|()\[\],]", constraint) if word]  # `2` of `ib*2`
    missing = [name for name in wanted if name not in has]
    if missing:
        fix = f"write `slurm.constraint` with {', '.join(sorted(has))}" if has else "leave `slurm.constraint` out"
        yield problem("constraint", f"no node of the partition has `{missing[0]}`", fix)
    else:
        yield ok("constraint", f"`{constraint}`")


def gpu_findings(cluster: Cluster, site: Site) -> Iterator[Finding]:
    """Say whether the partitions' nodes have the GPUs that jobs will ask for."""
    select = site.settings.get("SelectType", "select/cons_tres")
    if cluster.gpus.style == "gpus-per-node" and select != "select/cons_tres":
        fix = "write `gpus.style: gres` in the profile"
        yield problem("GPUs", f"`--gpus-per-node` needs select/cons_tres; the site has {select}", fix)
    for partition in partitions_of(cluster, site):
        yield _gpu_finding(cluster, partition.name, site.gpus_of(partition.name))


def _gpu_finding(cluster: Cluster, partition: str, nodes: list[GpuNodes]) -> Finding:
    wants, listed = cluster.gpus, "; ".join(map(str, nodes))
    if not nodes:
        what = f"no node of `{partition}` has GPUs"
        fix = "write another `slurm.partition`, or `gpus.device: cpu`"
        return ok("GPUs", what) if wants.device == "cpu" else problem("GPUs", what, fix)
    alike = [gpus for gpus in nodes if wants.type in (None, gpus.type)]
    if not alike:
        types = sorted({gpus.type for gpus in nodes if gpus.type})
        fix = f"write `gpus.type`: one of {', '.join(types)}" if types else "leave `gpus.type` out of the profile"
        return problem("GPUs", f"`{partition}` has no `{wants.type}`, but {listed}", fix)
    most = max(gpus.per_node for gpus in alike)
    if wants.per_node and wants.per_node > most:
        fix = f"write `gpus.per_node: {most}`"
        return problem("GPUs", f"no node of `{partition}` has {wants.per_node}; it has {listed}", fix)
    if wants.type is None and len({gpus.type for gpus in nodes}) > 1:
        what = f"`{partition}` has {listed}; a run may get any of them"
        return note("GPUs", what, "write `gpus.type` in the profile")
    if wants.per_node and wants.per_node < most:
        what = f"{listed}; the profile says {wants.per_node} a node"
        return note("GPUs", what, f"write `gpus.per_node: {most}` to use them all")
    return ok("GPUs", listed)


def queue_findings(cluster: Cluster, slurm: SlurmReport) -> Iterator[Finding]:
    """Say how many runs fit into one submission, and who answers `launcher status`."""
    yield _array_finding(cluster, slurm)
    yield _accounting_finding(slurm)
    if slurm.site.settings.get("TaskPlugin") in ("task/none", "(null)"):
        yield note("cores", "tasks are not bound to cores (TaskPlugin=task/none): jobs on a node can slow each other")
    plugins = slurm.site.settings.get("JobSubmitPlugins", "(null)")
    if plugins not in ("(null)", ""):
        what = f"the site's job_submit plugin ({plugins}) may change or refuse jobs"
        yield note("site rules", what, "`launcher submit RECIPE --test-only` asks them without queueing")


def _array_finding(cluster: Cluster, slurm: SlurmReport) -> Finding:
    most = slurm.site.max_array_size
    if most == 0:
        return note("arrays", "the site has none (MaxArraySize=0): every run is a job of its own")
    of_qos = [qos.max_submit for qos in slurm.qos or () if qos.name == slurm.qos_of(cluster)]
    limits = [one.max_submit for one in slurm.associations_of(cluster)] + of_qos
    mine = min((limit for limit in limits if limit is not None), default=None)
    what = f"up to {most} runs in one; more are split"
    if mine is not None and mine < most:
        fix = f"submit at most {mine} runs at a time: `--max-parallel` does not help, waiting runs count"
        return note("arrays", f"{what}; you may have {mine} jobs queued and running", fix)
    return ok("arrays", f"{what}; the whole site holds {slurm.site.settings.get('MaxJobCount', '?')} jobs")


def _accounting_finding(slurm: SlurmReport) -> Finding:
    if slurm.sacct_complaint is None:
        return ok("accounting", "sacct answers: `launcher status` asks squeue, then sacct")
    age = slurm.site.settings.get("MinJobAge", "300 sec").removesuffix("ec")
    return note(
        "accounting",
        f"sacct does not answer ({slurm.sacct_complaint}); `launcher status` asks squeue, then scontrol, which forgets "
        f"jobs {age} after their end, then the run directory",
    )
