//! Which partition a key belongs to.

use xxhash_rust::xxh3::xxh3_64;

use crate::click::{Click, Identity};
use crate::definition::PartitionBy;
use crate::ids::Partition;

/// The partition that Kafka's own clients choose for a record with this key: murmur2 of the key's bytes with the seed
/// `0x9747b28c`, the sign bit cleared, modulo the number of partitions (`DefaultPartitioner`, `Utils.murmur2`).
pub fn of_key(key: &[u8], partitions: u32) -> Partition {
    Partition((murmur2(key) & 0x7fff_ffff) % partitions.max(1))
}

/// The partition of a click's identity.
pub fn of_identity(identity: Identity, partitions: u32) -> Partition {
    // The upper bits: the lower ones choose the place in hash tables, which a common remainder would crowd.
    let upper = (identity.0 >> 64) as u64;
    Partition((upper % u64::from(partitions.max(1))) as u32)
}

/// The raw partition of a line, which tells this click if it tells one. `scratch` is overwritten.
#[inline]
pub fn of_line(
    line: &[u8],
    click: Option<Click<'_>>,
    by: PartitionBy,
    partitions: u32,
    scratch: &mut Vec<u8>,
) -> Partition {
    match (click, by) {
        (Some(click), PartitionBy::Identity) => of_identity(click.identity(scratch), partitions),
        (Some(click), PartitionBy::AdId) => of_key(click.ad_id.as_bytes(), partitions),
        (None, _) => Partition((xxh3_64(line) % u64::from(partitions.max(1))) as u32),
    }
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ (data.len() as u32);
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = chunk.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        hash ^= rest.iter().rev().fold(0, |word, byte| (word << 8) | u32::from(*byte));
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cases of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_is_the_one_of_kafka() {
        for (key, hash) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }
}
