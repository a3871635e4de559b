-- name: document_chunks
-- One document, in pieces.
SELECT document_id, title, text, metadata, start_at, end_at FROM {chunk}
WHERE document_id = %(document_id)s ORDER BY ordinal

-- name: documents_page
-- Whole documents in the order of their ids.
SELECT document_id, title, text, metadata, start_at, end_at FROM {chunk}
WHERE document_id IN (
    SELECT document_id FROM {chunk} WHERE ordinal <= 1 AND document_id > %(after)s
    ORDER BY document_id LIMIT %(limit)s)
ORDER BY document_id, ordinal
