"""The circle over the protocol of S3, as moto's server speaks it on this machine."""

import pytest

from ops import backup
from retrieval import Ragstone
from tests.backup.subject import Stopped, change, check_same, make_own, make_papers, parents, stop_in


def test_through_s3(rag: Ragstone, elsewhere: Ragstone, s3_repo: str) -> None:
    """Over the protocol of S3: made, gone on from, listed, verified, restored, and pruned."""
    papers, own = make_papers(rag), make_own(rag)
    full = backup.create(rag, s3_repo)
    change(papers, own)
    last = backup.create(rag, s3_repo, incremental=True)
    assert parents(last) == {"own": full.id, "papers": full.id}
    assert [made.id for made in backup.list_backups(s3_repo).complete] == [full.id, last.id]
    found = backup.verify(s3_repo)
    assert (found.ok, found.files) == (True, full.files + last.files)
    assert found.size_bytes == full.size_bytes + last.size_bytes
    backup.restore(elsewhere, s3_repo)
    for name in ("own", "papers"):
        check_same(rag, name, elsewhere)

    assert backup.prune(s3_repo, keep_last=1).removed == []  # the last one needs the first
    newest = backup.create(rag, s3_repo)
    assert backup.verify(s3_repo).ok
    assert backup.prune(s3_repo, keep_last=1).removed == [full.id, last.id]
    listing = backup.list_backups(s3_repo)
    assert ([made.id for made in listing.complete], listing.incomplete) == ([newest.id], [])
    assert backup.verify(s3_repo).ok


def test_cancelled_on_s3(rag: Ragstone, s3_repo: str) -> None:
    """A backup that is stopped leaves no object behind, nor a part of one."""
    make_own(rag)
    with pytest.raises(Stopped):
        backup.create(rag, s3_repo, watch=stop_in("writing"))
    listing = backup.list_backups(s3_repo)
    assert (listing.complete, listing.incomplete, listing.damaged) == ([], [], {})
