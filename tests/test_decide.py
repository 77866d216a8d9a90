"""Which documents stay: the rules on arrays against the same rules in plain Python."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.data.decide import DUPLICATE, REASONS, decide, mark
from jobs.data.keys import Keys
from tests.dropping import Doc, File, files, verdicts_by_hand


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


def verdicts_of(files, drops_duplicates=True):
    """The rules as the program has them: a reason or None for each written document, file by file."""
    judged = decide([keys_of(file) for file in files], drops_duplicates)
    return [[REASONS.get(verdict) for verdict in part.verdicts.tolist()] for part in judged]


@settings(max_examples=200)
@given(files=files, drops_duplicates=st.booleans())
@example(files=[], drops_duplicates=True)
@example(files=[File()], drops_duplicates=True)
def test_the_rules_on_arrays_are_the_rules_document_by_document(files, drops_duplicates):
    assert verdicts_of(files, drops_duplicates) == verdicts_by_hand(files, drops_duplicates)


@settings(max_examples=300)
@given(files=files)
def test_no_text_and_no_identity_vanishes_but_by_a_deletion_or_a_filter(files):
    verdicts = verdicts_of(files)
    written = [[doc for doc in file.docs if doc.is_written] for file in files]
    fates = [fate for its, theirs in zip(written, verdicts, strict=True) for fate in zip(its, theirs, strict=True)]
    kept = [doc for doc, verdict in fates if verdict is None]

    assert len({doc.text for doc in kept}) == len(kept)
    for doc, verdict in fates:
        if verdict == "duplicate":
            assert doc.text in {other.text for other in kept}
        if verdict is None and doc.identity is not None:
            assert [other.identity for other in kept].count(doc.identity) == 1


def test_of_equal_versions_the_last_one_counts():
    files = [File((Doc(1, identity=9, version=1), Doc(2, identity=9, version=1))), File((Doc(3, identity=9),))]

    assert verdicts_of(files) == [["superseded", None], ["superseded"]]
    assert verdicts_of([*files, File((Doc(4, identity=9, version=1),))])[2] == [None]


def test_a_newer_version_that_a_filter_dropped_leaves_no_older_one_behind():
    files = [File((Doc(1, identity=9, version=1),)), File((Doc(2, identity=9, version=2, is_written=False),))]

    assert verdicts_of(files) == [["superseded"], []]


def test_a_deletion_reaches_its_own_file_and_those_before_but_none_behind():
    deleted = ((9, 5), (9, 6))
    files = [File((Doc(1, identity=9, version=5),)), File((Doc(2, identity=9, version=6),), deleted)]

    assert verdicts_of(files) == [["deleted"], ["deleted"]]
    # What is brought back stays, whatever version it had before.
    assert verdicts_of([*files, File((Doc(1, identity=9, version=5),))]) == [["deleted"], ["deleted"], [None]]


def test_a_deletion_reaches_one_version_and_the_newest_of_the_others_stays():
    versions = File(tuple(Doc(version, identity=9, version=version) for version in (1, 2, 3)))

    assert verdicts_of([versions, File(deleted=((9, 1),))]) == [["deleted", "superseded", None], []]
    assert verdicts_of([versions, File(deleted=((9, 3),))]) == [["superseded", None, "deleted"], []]
    assert verdicts_of([versions, File(deleted=((9, 4), (8, 1)))]) == [["superseded", "superseded", None], []]


def test_a_copy_of_a_document_that_goes_stays():
    files = [File((Doc(1, identity=9, version=1), Doc(1), Doc(2, identity=9, version=2)))]

    assert verdicts_of(files) == [["superseded", None, None]]


def test_documents_are_dropped_by_their_place_among_all_written_ones():
    judged = decide([keys_of(File((Doc(1), Doc(2, is_written=False), Doc(3)))), keys_of(File((Doc(4), Doc(5))))], True)

    mark(judged, np.array([1, 2]), DUPLICATE)

    assert [part.stays.tolist() for part in judged] == [[True, False], [False, True]]
