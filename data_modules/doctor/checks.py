"""The kinds of findings, and which of them are errors.

An error is what packing refuses, or what makes a measure wrong. A warning is what can be meant so but rarely
is. Notes are what M-BEIR itself has: contents that stand under several ids across data sets, and pictures of
equal bytes under several names.
"""

from __future__ import annotations

from data_modules.doctor.findings import Check, Severity

_ERROR, _WARNING, _NOTE = Severity

FILE_NAME = Check("file-name", _ERROR, "a file's name says neither data set nor split; rename or move it")
MISSING_FILE = Check("missing-file", _ERROR, "a file that the layout needs is not there")
EMPTY_FILE = Check("empty-file", _ERROR, "a file without any row; add rows or remove it")
MALFORMED_LINE = Check("malformed-line", _ERROR, "a line that cannot be read: JSON, UTF-8, columns or length")
MISSING_KEY = Check("missing-key", _ERROR, "a row lacks a key")
WRONG_TYPE = Check("wrong-type", _ERROR, "a value has another type, or is none of the known ones")
MALFORMED_ID = Check("malformed-id", _ERROR, "an id is not '<data set>:<number>'")
DUPLICATE_ID = Check("duplicate-id", _ERROR, "an id stands twice where ids must be unique")
ID_CONFLICT = Check("id-conflict", _ERROR, "one id has two contents in different files")
EMPTY_CONTENT = Check("empty-content", _ERROR, "a row has neither text nor image")
WRONG_MODALITY = Check("wrong-modality", _ERROR, "the modality field says other than text and image do")
WRONG_TASK = Check("wrong-task", _ERROR, "the task does not fit the file's name, the query or its answers")
DUPLICATE_CONTENT = Check(
    "duplicate-content", _ERROR, "a pool has one content under two ids of a data set; remove one"
)
EQUAL_CONTENT = Check("equal-content", _NOTE, "equal text and picture bytes, but other file names")
SHARED_CONTENT = Check("shared-content", _NOTE, "a pool has one content in two data sets, as M-BEIR's do")

IMAGE_OUTSIDE = Check("image-outside", _ERROR, "an image path leads out of the root")
IMAGE_LINK = Check("image-link", _WARNING, "an image is a link to a file outside the root; copy the file")
MISSING_IMAGE = Check("missing-image", _ERROR, "an image file is not there or is no file")
DAMAGED_IMAGE = Check("damaged-image", _ERROR, "an image cannot be decoded")
OVERSIZED_IMAGE = Check("oversized-image", _ERROR, "an image has more bytes or pixels than are decoded")

UNKNOWN_POSITIVE = Check("unknown-positive", _ERROR, "a positive of a query is in no pool")
UNKNOWN_NEGATIVE = Check("unknown-negative", _ERROR, "a negative of a query is in no pool")
NO_POSITIVE = Check("no-positive", _ERROR, "a query has no positive")
EMPTY_LIST = Check("empty-list", _WARNING, "a query's pos_cand_list is empty, its qrels have positives")
UNREACHABLE = Check(
    "unreachable", _WARNING, "none of a query's positives is in a pool that is searched for it"
)
DANGLING_QUERY = Check("dangling-query", _ERROR, "qrels judge a query that the task does not have")
DANGLING_CANDIDATE = Check("dangling-candidate", _ERROR, "qrels judge a candidate that no pool has")
QRELS_CONTRADICT = Check("qrels-contradict", _ERROR, "qrels and pos_cand_list disagree")
UNJUDGED = Check("unjudged-query", _ERROR, "a query does not occur in its task's qrels")
DUPLICATE_JUDGEMENT = Check("duplicate-judgement", _WARNING, "qrels judge the same pair twice")
WRONG_SCORE = Check("wrong-score", _ERROR, "a relevance is no integer")
NO_INSTRUCTION = Check("no-instruction", _ERROR, "no instruction for a data set and its modalities")
DUPLICATE_INSTRUCTION = Check("duplicate-instruction", _ERROR, "instructions for the same key occur twice")
NOT_IN_GLOBAL = Check("not-in-global", _ERROR, "a local pool has a candidate that the global pool lacks")
LEAK = Check("leak", _ERROR, "a query of val or test, and its answer, are in train by content")
REPEATED_QUERY = Check(
    "repeated-query", _NOTE, "a query of val or test is in train by content, with other answers"
)
EMPTY_PASSAGE = Check("empty-passage", _ERROR, "a passage has neither title nor text")
TITLE_ONLY = Check("title-only", _WARNING, "a passage has a title and no text")
EMPTY_QUERY = Check("empty-query", _ERROR, "a query has no text")
REPEATED_PASSAGE = Check("repeated-passage", _WARNING, "a passage's title and text stand under two ids")
UNUSED_QUERY = Check("unused-query", _WARNING, "a query has no positive in any qrels")
