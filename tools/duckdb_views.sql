-- The events of a hangarlog store, as views that take the store's folder: SELECT … FROM events('mystore');
-- duckdb -init tools/duckdb_views.sql

-- The pattern is of names that end in `.jsonl` or `.jsonl.zst`: there may be `.damaged` files beside them.

-- Every segment, also the lines of erased events, whose type is empty. A line that is not whole, because it is being
-- written or is damaged, is left out.
CREATE OR REPLACE MACRO lines(store) AS TABLE
SELECT *
FROM read_json(
    store || '/journal*[oz][ns][lt]',
    format = 'newline_delimited',
    ignore_errors = true,
    columns = {
        position: 'BIGINT', stream_id: 'VARCHAR', stream_version: 'BIGINT', event_type: 'VARCHAR',
        event_id: 'VARCHAR', recorded_at: 'TIMESTAMPTZ', metadata: 'JSON', data: 'JSON'
    }
)
WHERE position IS NOT NULL;

CREATE OR REPLACE MACRO events(store) AS TABLE
SELECT * FROM lines(store) WHERE event_type <> '';

-- Whether `events` has each event once: a roll, or a compression, while the files are listed may hide a segment or show
-- one twice. A store may have dropped its first events.
CREATE OR REPLACE MACRO events_complete(store) AS TABLE
SELECT
    count(*) FILTER (WHERE event_type <> '') AS events,
    max(position) AS last_position,
    count(*) = max(position) - min(position) + 1 AS complete
FROM lines(store);

-- Sealed segments only: files that never change. Damage is an error, and so is a store without a sealed segment.
CREATE OR REPLACE MACRO sealed_events(store) AS TABLE
SELECT *
FROM read_json(
    store || '/journal.0*[oz][ns][lt]',
    format = 'newline_delimited',
    columns = {
        position: 'BIGINT', stream_id: 'VARCHAR', stream_version: 'BIGINT', event_type: 'VARCHAR',
        event_id: 'VARCHAR', recorded_at: 'TIMESTAMPTZ', metadata: 'JSON', data: 'JSON'
    }
)
WHERE event_type <> '';
