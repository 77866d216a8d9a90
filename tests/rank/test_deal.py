"""Files are dealt out evenly."""

from hypothesis import given
from hypothesis import strategies as st

from jobs.rank.deal import deal

sizes_of_files = st.lists(st.integers(0, 10**9), max_size=60)
counts = st.integers(1, 12)


@given(sizes=sizes_of_files, count=counts)
def test_every_file_is_dealt_once(sizes, count):
    shares = deal(sizes, count)

    assert len(shares) == count
    assert sorted(number for share in shares for number in share) == list(range(len(sizes)))


@given(sizes=sizes_of_files, count=counts)
def test_no_share_is_a_third_larger_than_it_must_be(sizes, count):
    loads = [sum(sizes[number] for number in share) for share in deal(sizes, count)]
    ranked = sorted(sizes, reverse=True)
    together = [ranked[count - 1] + ranked[count]] if len(sizes) > count else []  # two of these share a task
    at_best = max([sum(sizes) / count, *ranked[:1], *together])

    assert max(loads) <= 4 / 3 * at_best or max(loads) - sum(sizes) / count <= ranked[0]


@given(size=st.integers(0, 10**6), files=st.integers(0, 60), count=counts)
def test_equal_files_are_dealt_in_turn(size, files, count):
    numbers = [len(share) for share in deal([size] * files, count)]

    assert max(numbers) - min(numbers) <= 1


def test_shares_read_the_largest_file_first():
    assert deal([5, 9, 1, 7, 3], 2) == [[1, 4, 2], [3, 0]]
