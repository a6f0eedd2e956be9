//! The mapper operator alone, one core: parse, identity, duplicates, four filters, counts.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use clickmill_generator::{Options, lines};
use clickmill_mapper::{Combiner, PartitionMapper};
use clickmill_model::records::{Origin, SourceHeader, SourceMark};
use clickmill_model::{Definition, Filter, FilterId, LineParser, Offset, Partition, RawPartition, Timestamp};
use clickmill_queue::{Fetched, Record};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// As the program has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn definition() -> Definition {
    let filter = |id| Filter { id: FilterId(id), ..Filter::default() };
    let filters = vec![
        Filter::all(),
        Filter { country: vec!["USA".into()], ..filter(1) },
        Filter { exclude_country: vec!["USA".into(), "India".into()], ..filter(2) },
        Filter { ip: vec!["16.0.0.0/4".parse().unwrap()], ..filter(3) },
    ];
    Definition { filters, ..Definition::default() }
}

/// The clicks of four minutes as records of 256 KiB, as a watcher that catches up sends them; minutes close as time passes.
fn records(clicks: u64, ads: u64) -> Vec<Fetched> {
    let (text, _) = lines(&Options { clicks, ads, minutes: 4, ..Options::new("") }).unwrap();
    let mut parser = LineParser::new();
    let mut records = Vec::new();
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        let cut = rest.len().min(256 << 10);
        let cut = rest[..cut].iter().rposition(|b| *b == b'\n').unwrap() + 1;
        let first = parser.parse(rest.split(|b| *b == b'\n').next().unwrap()).unwrap().timestamp;
        let header = SourceHeader {
            source: "bench".into(),
            mark: SourceMark::At(first.before(definition().time.max_disorder)),
            origin: Origin { runs: vec![("a.log".into(), vec![0])] },
        };
        records.push(Fetched {
            offset: Offset(records.len() as u64),
            arrival: Timestamp::from_secs(1_700_000_000),
            record: Record {
                key: None,
                headers: vec![(SourceHeader::KEY.into(), header.encode())],
                value: rest[..cut - 1].to_vec(),
            },
        });
        rest = &rest[cut..];
    }
    records
}

fn operator(c: &mut Criterion) {
    let definition = definition();
    let mut group = c.benchmark_group("mapper");
    group.sample_size(10);
    for (name, ads) in [("100,000 ads", 100_000), ("2,000,000 ads", 2_000_000)] {
        let clicks = 4_000_000;
        let records = records(clicks, ads);
        group.throughput(Throughput::Elements(clicks));
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    let raw = RawPartition::new("ad-clicks", Partition(0));
                    (PartitionMapper::new(raw, &definition, Offset(0)), Combiner::new(4))
                },
                |(mut mapper, mut combiner)| {
                    for batch in records.chunks(64) {
                        mapper.apply(batch, &mut combiner).unwrap();
                        let mapped = mapper.take(&mut combiner);
                        std::hint::black_box(mapped.blocks.iter().map(|b| b.encode().len()).sum::<usize>());
                    }
                    (mapper, combiner)
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, operator);
criterion_main!(benches);
