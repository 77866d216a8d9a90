"""Where ranks meet: their numbers, an address that other nodes can use, a port that nobody else has."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.batch.rendezvous import (
    PORTS,
    UnresolvableError,
    choose_port,
    first_port,
    master_address,
    port_is_free,
)
from jobs.rank.ranks import Ranks, ranks_from, tasks_per_node

DEFAULT_RANGE = (10000, 32000)
MISSING = "no-such-host.invalid"


def unknown(_: str) -> str | None:
    return None


def test_a_slurm_task_knows_its_place() -> None:
    task = {"SLURM_PROCID": "5", "SLURM_NTASKS": "6", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_ID": "0"}

    assert ranks_from({**task, "SLURM_STEP_TASKS_PER_NODE": "4,2"}) == Ranks(5, 6, 1, 2, 1)


def test_a_torchrun_worker_inside_a_slurm_task_believes_torchrun() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "1"}

    assert ranks_from({**torchrun, "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}) == Ranks(3, 4, 1, 2, 1)


def test_a_process_that_nobody_placed_is_alone_even_inside_a_job() -> None:
    assert ranks_from({}) == Ranks(0, 1, 0, 1, 0)
    assert ranks_from({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}) == Ranks(0, 1, 0, 1, 0)


@pytest.mark.parametrize(
    ("text", "counts"), [("4(x3),2", [4, 4, 4, 2]), ("8", [8]), ("2(x2)", [2, 2]), ("1,3", [1, 3])]
)
def test_slurms_short_form_of_tasks_per_node_is_expanded(text: str, counts: list[int]) -> None:
    assert tasks_per_node(text) == counts


def test_a_single_node_may_use_its_own_name_though_it_means_localhost() -> None:
    address, _ = master_address(["localhost"], unknown)

    assert address == "localhost"


def test_a_name_that_does_not_resolve_gives_way_to_the_node_address() -> None:
    address, why = master_address([MISSING, "other"], {MISSING: "127.0.0.1"}.get)

    assert address == "127.0.0.1"
    assert why == f"NodeAddr, since `{MISSING}` does not resolve"


def test_several_nodes_do_not_meet_at_a_localhost_that_only_the_name_server_believes_in() -> None:
    address, why = master_address(["localhost", "other"], {"localhost": "192.0.2.7"}.get)

    assert address == "192.0.2.7"
    assert why.startswith("NodeAddr, since `localhost` is ")


@pytest.mark.parametrize("node_addr", [None, MISSING, "no-such-address.invalid"])
def test_an_unreachable_first_node_is_named_and_never_replaced_by_localhost(node_addr: str | None) -> None:
    with pytest.raises(UnresolvableError, match=rf"{MISSING}: neither the node's name nor its NodeAddr"):
        master_address([MISSING, "other"], {MISSING: node_addr}.get)


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.integers(0, 10), st.integers(0, 10))
def test_jobs_whose_ids_are_near_never_want_the_same_ports(job: int, distance: int, one: int, other: int) -> None:
    near = job + distance % 999 + 1

    assert first_port(job, one, DEFAULT_RANGE) != first_port(near, other, DEFAULT_RANGE)


def test_a_thousand_jobs_alive_with_five_restarts_each_have_ports_of_their_own() -> None:
    wanted = {first_port(job, restart, DEFAULT_RANGE) for job in range(77_000, 78_000) for restart in range(5)}

    assert len(wanted) == 5000
    assert all((port - DEFAULT_RANGE[0]) % PORTS == 0 for port in wanted)  # so nobody takes another's second port


@given(st.integers(1, 10**9), st.integers(0, 100), st.tuples(st.integers(1024, 30000), st.integers(4, 30000)))
def test_ports_lie_in_the_range_and_differ_after_a_requeue(job: int, restart: int, span: tuple[int, int]) -> None:
    port_range = (span[0], span[0] + span[1])
    port = first_port(job, restart, port_range)

    assert port_range[0] <= port < port + PORTS - 1 <= port_range[1]
    assert port != first_port(job, restart + 1, port_range)


@pytest.fixture
def occupied() -> Iterator[int]:
    """A port that somebody listens on, on localhost only."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_occupied_port_is_not_free(occupied: int) -> None:
    assert not port_is_free(occupied)


def test_an_occupied_port_is_passed_over(occupied: int) -> None:
    port_range = (occupied - 4, occupied + 5)
    free_otherwise = {port for port in range(occupied - 4, occupied + 6) if port != occupied}

    assert choose_port(occupied, port_range, free_otherwise.__contains__) == occupied + PORTS
    assert choose_port(occupied - 2, port_range, free_otherwise.__contains__) == occupied - 2


def test_both_ports_of_a_place_must_be_free() -> None:
    assert choose_port(100, (100, 109), lambda port: port != 101) == 102


def test_the_search_goes_around_the_range() -> None:
    assert choose_port(108, (100, 109), lambda port: port < 104) == 100


def test_a_range_without_a_free_port_is_an_error_that_names_it() -> None:
    with pytest.raises(UnresolvableError, match="all ports from 100 to 109 are taken"):
        choose_port(104, (100, 109), lambda _: False)
