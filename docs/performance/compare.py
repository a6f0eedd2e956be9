"""What DuckDB takes for the same lines: parse, remove duplicates, count; then write them to Parquet.

    python3 docs/performance/compare.py 'logs/*.log'
"""

import sys
import time

import duckdb

LOGS = sys.argv[1]
LINES = f"""
    SELECT str_split(line[16:], ', ') AS f
    FROM read_csv('{LOGS}', columns = {{'line': 'VARCHAR'}}, delim = '\\x01', header = false, quote = '', escape = '')
    WHERE line LIKE '[AdClickEvent]%'
"""
CLICKS = f"SELECT f[1] AS ad_id, f[2]::TIMESTAMP AS time, f[3] AS user_id, f[4] AS ip, f[5] AS country FROM ({LINES})"

db = duckdb.connect()
db.execute("SET threads = 2")

began = time.perf_counter()
(rows, clicks) = db.execute(f"""
    SELECT count(*), sum(n) FROM (
        SELECT date_trunc('minute', time), ad_id, count(*) AS n FROM (SELECT DISTINCT * FROM ({CLICKS})) GROUP BY ALL)
""").fetchone()
print(f"distinct and counts: {time.perf_counter() - began:.1f} s, {clicks} clicks in {rows} rows")

began = time.perf_counter()
db.execute(f"COPY ({CLICKS}) TO '/tmp/clicks.parquet' (FORMAT parquet, COMPRESSION zstd)")
print(f"lines to Parquet: {time.perf_counter() - began:.1f} s")
