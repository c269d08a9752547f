"""Why a package, or a call of it, is refused: one code for each reason, the same in every language.

The codes are part of the format. docs/package.md lists them with their meaning, in this order, which is the
order in which a loader checks; of several faults the first one counts.
"""

from __future__ import annotations

from enum import StrEnum

from canet_mobile.errors import CanetError


class Code(StrEnum):
    """The reasons, in the order in which a loader checks."""

    PACKAGE_MISSING = "package_missing"
    ARCHIVE_UNREADABLE = "archive_unreadable"
    ARCHIVE_UNSAFE = "archive_unsafe"
    MANIFEST_MISSING = "manifest_missing"
    DOCUMENT_TOO_LARGE = "document_too_large"
    MANIFEST_UNREADABLE = "manifest_unreadable"
    NOT_A_PACKAGE = "not_a_package"
    SCHEMA_OLDER = "schema_older"
    SCHEMA_NEWER = "schema_newer"
    MANIFEST_INVALID = "manifest_invalid"
    NAMES_UNSAFE = "names_unsafe"
    FILE_UNLISTED = "file_unlisted"
    FILE_MISSING = "file_missing"
    SIZE_MISMATCH = "size_mismatch"
    ARCHIVE_TOO_LARGE = "archive_too_large"
    HASH_MISMATCH = "hash_mismatch"
    UNLISTED_MODEL = "unlisted_model"
    RUNTIME_MISMATCH = "runtime_mismatch"
    ROUTES_DISAGREE = "routes_disagree"
    INTERFACE_DISAGREES = "interface_disagrees"
    POINTS_DISAGREE = "points_disagree"
    ITEMS_DISAGREE = "items_disagree"
    GOLDEN_INVALID = "golden_invalid"
    RUNTIME_TOO_OLD = "runtime_too_old"
    RUNTIME_MISSING = "runtime_missing"
    RUNTIME_FAILED = "runtime_failed"
    ENTRY_UNKNOWN = "entry_unknown"
    POINT_UNKNOWN = "point_unknown"
    LENGTH_UNKNOWN = "length_unknown"
    HISTORY_INVALID = "history_invalid"
    ITEM_UNKNOWN = "item_unknown"
    ROUTE_UNKNOWN = "route_unknown"


class Refused(CanetError):
    """A package, or a call of it, is not used.

    Args:
        code: why.
        what, where, fix: as for every :class:`CanetError`.
    """

    code: Code

    def __init__(self, code: Code, what: str, *, where: object | None = None, fix: str | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.code = code
