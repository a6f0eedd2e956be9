"""What DuckDB takes for the counts of a span, from the same raw Parquet: remove duplicates, count by minute and ad.

    python3 docs/performance/recalc.py clickmill-data/files
"""

import resource
import sys
import time

import duckdb

RAW = f"read_parquet('{sys.argv[1]}/raw/**/*.parquet')"

db = duckdb.connect()
db.execute("SET threads = 2")
began = time.perf_counter()
(rows, clicks) = db.execute(f"""
    SELECT count(*), sum(n) FROM (
        SELECT date_trunc('minute', click_timestamp), ad_id, count(*) AS n
        FROM (SELECT DISTINCT ad_id, click_timestamp, user_id, ip, country FROM {RAW} WHERE reason IS NULL)
        GROUP BY ALL)
""").fetchone()
seconds = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_SELF)
print(
    f"{clicks} clicks in {seconds:.1f} s: {float(clicks) / seconds / 1e6:.2f} M/s, "
    f"{(used.ru_utime + used.ru_stime) / float(clicks) * 1e6:.2f} µs of CPU a click, "
    f"at most {used.ru_maxrss >> 10} MiB; {rows} rows"
)
