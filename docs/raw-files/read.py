"""Reads raw Parquet with DuckDB, Polars and pyarrow, as it is, and demands that they agree.

    python3 -m venv venv && venv/bin/pip install duckdb polars pyarrow
    venv/bin/python docs/raw-files/read.py clickmill-data/files

The statements are those of docs/raw-files.md.
"""

import sys
from datetime import date, datetime, timezone

import duckdb
import polars as pl
import pyarrow
import pyarrow.compute as pc
import pyarrow.dataset as ds

ROOT = sys.argv[1]
PLACE = ["topic", "partition", "offset", "line_number", "arrival"]
COLUMNS = {
    "topic": "string", "partition": "int32", "offset": "int64", "line_number": "int32", "arrival": "timestamp[us, tz=UTC]",
    "source": "string", "file": "string", "byte_offset": "int64", "ad_id": "string", "click_timestamp": "timestamp[us, tz=UTC]",
    "user_id": "string", "ip": "string", "country": "string", "event_id": "string", "reason": "string", "line": "binary",
}


def quoted(name):
    return f'"{name}"'


def with_duckdb():
    db = duckdb.connect()
    db.execute("SET TimeZone = 'UTC'")
    db.execute(f"CREATE VIEW raw AS SELECT * FROM read_parquet('{ROOT}/raw/**/*.parquet', hive_partitioning = true)")
    lines, places, clicks, rejected = db.execute(
        f"SELECT count(*), count(DISTINCT ({', '.join(map(quoted, PLACE))})), count(ad_id), count(reason) FROM raw"
    ).fetchone()
    minutes = db.execute(
        "SELECT date_trunc('minute', click_timestamp) AS minute, ad_id, count(*) FROM raw WHERE reason IS NULL GROUP BY ALL ORDER BY 1, 2"
    ).fetchall()
    kinds = {name: kind for name, kind, *_ in db.execute("DESCRIBE raw").fetchall()}
    assert kinds["arrival"] == kinds["click_timestamp"] == "TIMESTAMP WITH TIME ZONE", kinds
    assert kinds["date"] == "DATE" and kinds["line"] == "BLOB" and kinds["offset"] == "BIGINT", kinds
    return (lines, places, clicks, rejected), [(at.astimezone(timezone.utc), ad, count) for at, ad, count in minutes]


def with_polars():
    raw = pl.scan_parquet(f"{ROOT}/raw/**/*.parquet", hive_partitioning=True)
    assert raw.collect_schema()["date"] == pl.Date
    sums = raw.select(
        pl.len().alias("lines"), pl.struct(PLACE).n_unique().alias("places"),
        pl.col("ad_id").count().alias("clicks"), pl.col("reason").count().alias("rejected"),
    ).collect().row(0)
    minutes = (
        raw.filter(pl.col("reason").is_null())
        .group_by(pl.col("click_timestamp").dt.truncate("1m").alias("minute"), "ad_id")
        .len()
        .sort("minute", "ad_id")
        .collect()
    )
    return sums, minutes.rows()


def with_pyarrow():
    hive = ds.partitioning(pyarrow.schema([("date", pyarrow.date32())]), flavor="hive")
    raw = ds.dataset(f"{ROOT}/raw", format="parquet", partitioning=hive)
    kinds = {field.name: str(field.type) for field in raw.schema}
    days = kinds.pop("date")
    assert (kinds, days) == (COLUMNS, "date32[day]"), (kinds, days)
    table = raw.to_table()
    places = table.group_by(PLACE).aggregate([]).num_rows
    sums = (table.num_rows, places, pc.count(table["ad_id"]).as_py(), pc.count(table["reason"]).as_py())
    # Only what the statistics of the files leave over is read.
    clicks = raw.to_table(columns=["click_timestamp", "ad_id"], filter=pc.field("reason").is_null())
    minute = pc.floor_temporal(clicks["click_timestamp"], unit="minute")
    counts = clicks.append_column("minute", minute).group_by(["minute", "ad_id"]).aggregate([([], "count_all")])
    rows = zip(*(counts[name].to_pylist() for name in ["minute", "ad_id", "count_all"]))
    return sums, sorted(rows)


found = {"duckdb": with_duckdb(), "polars": with_polars(), "pyarrow": with_pyarrow()}
(sums, minutes), *others = found.values()
assert all(other == (sums, minutes) for other in others), {name: sums for name, (sums, _) in found.items()}
assert sums[0] == sums[1], f"{sums[0] - sums[1]} lines stand twice: is a compaction under way?"
print(f"duckdb {duckdb.__version__}, polars {pl.__version__}, pyarrow {pyarrow.__version__}, {datetime.now(timezone.utc):%Y-%m-%d}")
print("%d lines, %d of them at a place of their own, %d clicks, %d with a reason why they were not counted" % sums)
print(f"{len(minutes)} counts of an ad in a minute; the three agree")
