"""Which documents stay: the rules on arrays against the same rules in plain Python."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.data.dedup.decide import DUPLICATE, REASONS, decide, mark
from jobs.data.dedup.document_keys import Keys
from tests.support.dedup_reference import Doc, File, decisions_by_hand, files


def keys_of(file):
    """The keys of a file's part."""
    written = [place for place, doc in enumerate(file.docs) if doc.is_written]
    identified = [place for place, doc in enumerate(file.docs) if doc.identity is not None]
    return Keys(
        ordinals=np.array(written, "<u4"),
        splits=np.zeros(len(written), "u1"),
        texts=np.array([file.docs[place].text for place in written], "<u8"),
        licenses=np.zeros(len(written), "<u4"),
        license_names=np.array(["MIT"]),
        signed=np.zeros(0, "<u4"),
        identified=np.array(identified, "<u4"),
        identities=np.array([file.docs[place].identity for place in identified], "<u8"),
        versions=np.array([file.docs[place].version for place in identified], "<u4"),
        deleted=np.array([identity for identity, _ in file.deleted], "<u8"),
        deleted_versions=np.array([version for _, version in file.deleted], "<u4"),
    )


def decisions_of(files, drops_duplicates=True):
    """The rules as the program has them: a reason or None for each written document, file by file."""
    decided = decide([keys_of(file) for file in files], drops_duplicates)
    return [[REASONS.get(decision) for decision in part.decisions.tolist()] for part in decided]


@settings(max_examples=200)
@given(files=files, drops_duplicates=st.booleans())
@example(files=[], drops_duplicates=True)
@example(files=[File()], drops_duplicates=True)
def test_the_rules_on_arrays_are_the_rules_document_by_document(files, drops_duplicates):
    assert decisions_of(files, drops_duplicates) == decisions_by_hand(files, drops_duplicates)


@settings(max_examples=300)
@given(files=files)
def test_no_text_and_no_identity_vanishes_but_by_a_deletion_or_a_filter(files):
    decisions = decisions_of(files)
    written = [[doc for doc in file.docs if doc.is_written] for file in files]
    fates = [fate for its, theirs in zip(written, decisions, strict=True) for fate in zip(its, theirs, strict=True)]
    kept = [doc for doc, decision in fates if decision is None]

    assert len({doc.text for doc in kept}) == len(kept)
    for doc, decision in fates:
        if decision == "duplicate":
            assert doc.text in {other.text for other in kept}
        if decision is None and doc.identity is not None:
            assert [other.identity for other in kept].count(doc.identity) == 1


def test_of_equal_versions_the_last_one_counts():
    files = [File((Doc(1, identity=9, version=1), Doc(2, identity=9, version=1))), File((Doc(3, identity=9),))]

    assert decisions_of(files) == [["superseded", None], ["superseded"]]
    assert decisions_of([*files, File((Doc(4, identity=9, version=1),))])[2] == [None]


def test_a_newer_version_that_a_filter_dropped_leaves_no_older_one_behind():
    files = [File((Doc(1, identity=9, version=1),)), File((Doc(2, identity=9, version=2, is_written=False),))]

    assert decisions_of(files) == [["superseded"], []]


def test_a_deletion_reaches_its_own_file_and_those_before_but_none_behind():
    deleted = ((9, 5), (9, 6))
    files = [File((Doc(1, identity=9, version=5),)), File((Doc(2, identity=9, version=6),), deleted)]

    assert decisions_of(files) == [["deleted"], ["deleted"]]
    # What is brought back stays, whatever version it had before.
    assert decisions_of([*files, File((Doc(1, identity=9, version=5),))]) == [["deleted"], ["deleted"], [None]]


def test_a_deletion_reaches_one_version_and_the_newest_of_the_others_stays():
    versions = File(tuple(Doc(version, identity=9, version=version) for version in (1, 2, 3)))

    assert decisions_of([versions, File(deleted=((9, 1),))]) == [["deleted", "superseded", None], []]
    assert decisions_of([versions, File(deleted=((9, 3),))]) == [["superseded", None, "deleted"], []]
    assert decisions_of([versions, File(deleted=((9, 4), (8, 1)))]) == [["superseded", "superseded", None], []]


def test_a_copy_of_a_document_that_goes_stays():
    files = [File((Doc(1, identity=9, version=1), Doc(1), Doc(2, identity=9, version=2)))]

    assert decisions_of(files) == [["superseded", None, None]]


def test_documents_are_dropped_by_their_place_among_all_written_ones():
    decided = decide([keys_of(File((Doc(1), Doc(2, is_written=False), Doc(3)))), keys_of(File((Doc(4), Doc(5))))], True)

    mark(decided, np.array([1, 2]), DUPLICATE)

    assert [part.stays.tolist() for part in decided] == [[True, False], [False, True]]
