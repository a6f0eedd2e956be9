//! Whether a read meets every acknowledged write: whether the copies that must answer and those that must have acknowledged always have one in common.

use std::collections::BTreeMap;

use super::options::Consistency;

/// The copies of a keyspace by data centre. A keyspace that does not know data centres has one, without a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copies(pub(super) BTreeMap<String, u32>);

/// The fewest copies that take part.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Least {
    /// In each data centre for certain.
    by_dc: BTreeMap<String, u32>,
    /// Altogether.
    total: u32,
}

impl Copies {
    fn total(&self) -> u32 {
        self.0.values().sum()
    }

    /// The fewest copies that take part at this level, where `local` is the data centre that is talked to. An error says why the level can never be met.
    fn least(&self, level: Consistency, local: Option<&str>) -> Result<Least, String> {
        let all = self.total();
        let quorum = |copies: u32| copies / 2 + 1;
        let anywhere = |needed: u32| {
            if needed > all {
                return Err(format!("{level} needs {needed} copies, and there are {all}"));
            }
            // As many as are left when all other data centres have given theirs.
            let by_dc = self.0.iter().map(|(dc, copies)| (dc.clone(), needed.saturating_sub(all - copies))).collect();
            Ok(Least { by_dc, total: needed })
        };
        let of_each = |needed: fn(u32) -> u32| {
            let by_dc: BTreeMap<_, _> = self.0.iter().map(|(dc, copies)| (dc.clone(), needed(*copies))).collect();
            let total = by_dc.values().sum();
            Ok(Least { by_dc, total })
        };
        let in_one = |needed: fn(u32) -> u32| {
            let (dc, copies) = self.local(local)?;
            let needed = needed(copies);
            Ok(Least { by_dc: BTreeMap::from([(dc.to_owned(), needed)]), total: needed })
        };
        match level {
            Consistency::One => anywhere(1),
            Consistency::Two => anywhere(2),
            Consistency::Three => anywhere(3),
            Consistency::Quorum => anywhere(quorum(all)),
            Consistency::All => of_each(|copies| copies),
            Consistency::EachQuorum => of_each(|copies| copies / 2 + 1),
            Consistency::LocalQuorum => in_one(|copies| copies / 2 + 1),
            Consistency::LocalOne => in_one(|_| 1),
        }
    }

    /// The data centre that is talked to, with its copies.
    fn local(&self, local: Option<&str>) -> Result<(&str, u32), String> {
        let names = || self.0.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        match (local, self.0.iter().next()) {
            // Where data centres are not told apart, any is the right one; and where there is only one, it need not be named.
            (_, Some((dc, copies))) if self.0.len() == 1 && (dc.is_empty() || local.is_none()) => Ok((dc, *copies)),
            (Some(local), _) => match self.0.get_key_value(local) {
                Some((dc, copies)) => Ok((dc, *copies)),
                None => Err(format!(
                    "store.local_dc is {local:?}, where the keyspace has no copy: it has copies in {}",
                    names()
                )),
            },
            (None, _) => Err(format!("store.local_dc must say which data centre is talked to: there are {}", names())),
        }
    }

    /// Refuses levels under which a read may miss an acknowledged write.
    pub(super) fn check(&self, read: Consistency, write: Consistency, local: Option<&str>) -> Result<(), String> {
        if read == Consistency::EachQuorum {
            return Err("each_quorum is for writes only: read with local_quorum then".to_owned());
        }
        let (reads, writes) = (self.least(read, local)?, self.least(write, local)?);
        let in_dc = |least: &Least, dc: &String| least.by_dc.get(dc).copied().unwrap_or(0);
        let meets_in_one = self.0.iter().any(|(dc, copies)| in_dc(&reads, dc) + in_dc(&writes, dc) > *copies);
        if meets_in_one || reads.total + writes.total > self.total() {
            return Ok(());
        }
        Err(format!(
            "of {} copies, {} must acknowledge a write ({write}) and {} must answer a read ({read}): a read may miss a write. Take local_quorum for both",
            self.total(),
            writes.total,
            reads.total
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Consistency::{All, EachQuorum, LocalOne, LocalQuorum, One, Quorum, Three, Two};

    fn copies(of: &[(&str, u32)]) -> Copies {
        Copies(of.iter().map(|(dc, copies)| ((*dc).to_owned(), *copies)).collect())
    }

    #[test]
    fn a_read_meets_every_write_where_they_have_a_copy_in_common() {
        let one = copies(&[("dc1", 1)]);
        let three = copies(&[("dc1", 3)]);
        let simple = copies(&[("", 3)]);
        let both = copies(&[("dc1", 3), ("dc2", 3)]);
        let uneven = copies(&[("dc1", 3), ("dc2", 1)]);
        for (copies, read, write, local, safe) in [
            (&one, One, One, None, true),
            (&one, LocalOne, LocalOne, None, true),
            (&one, LocalQuorum, LocalQuorum, None, true),
            (&three, LocalQuorum, LocalQuorum, None, true),
            (&three, LocalQuorum, LocalQuorum, Some("dc1"), true),
            (&three, Quorum, Quorum, None, true),
            (&three, One, Quorum, None, false),
            (&three, LocalOne, LocalQuorum, None, false),
            (&three, One, All, None, true),
            (&three, All, One, None, true),
            (&three, Two, Two, None, true),
            (&three, One, Three, None, true),
            (&three, Two, One, None, false),
            (&simple, LocalQuorum, LocalQuorum, Some("anything"), true),
            (&simple, One, LocalQuorum, None, false),
            (&both, LocalQuorum, LocalQuorum, Some("dc1"), true),
            (&both, LocalQuorum, EachQuorum, Some("dc2"), true),
            (&both, LocalQuorum, Quorum, Some("dc2"), false),
            (&both, Quorum, LocalQuorum, Some("dc2"), false),
            (&both, Quorum, EachQuorum, None, true),
            (&both, Quorum, Quorum, None, true),
            (&both, LocalOne, All, Some("dc1"), true),
            (&both, LocalOne, LocalQuorum, Some("dc1"), false),
            (&both, Three, Three, None, false),
            (&uneven, Quorum, LocalQuorum, Some("dc1"), true),
            (&uneven, LocalQuorum, Quorum, Some("dc2"), false),
        ] {
            let found = copies.check(read, write, local);
            assert_eq!(found.is_ok(), safe, "{copies:?} read {read} write {write} in {local:?}: {found:?}");
        }
    }

    /// Every pick of so many copies, tried out.
    #[test]
    fn levels_that_are_allowed_meet_whatever_copies_answer() {
        let dcs: [&[(&str, u32)]; 5] =
            [&[("a", 1)], &[("a", 2)], &[("a", 3)], &[("a", 3), ("b", 2)], &[("a", 2), ("b", 2)]];
        for of in dcs {
            let copies = copies(of);
            let all: Vec<&str> = of.iter().flat_map(|(dc, n)| std::iter::repeat_n(*dc, *n as usize)).collect();
            let takes = |level, set: u32| {
                let of_dc = |dc: &str| (0..all.len()).filter(|i| set >> i & 1 == 1 && all[*i] == dc).count() as u32;
                let of_all = |dc: &str| of.iter().find(|(name, _)| *name == dc).map_or(0, |(_, n)| *n);
                let total = set.count_ones();
                match level {
                    One => total >= 1,
                    Two => total >= 2,
                    Three => total >= 3,
                    Quorum => total > all.len() as u32 / 2,
                    All => total == all.len() as u32,
                    LocalQuorum => of_dc("a") > of_all("a") / 2,
                    LocalOne => of_dc("a") >= 1,
                    EachQuorum => of.iter().all(|(dc, n)| of_dc(dc) > n / 2),
                }
            };
            for (read, _) in Consistency::NAMES.iter().filter(|(level, _)| *level != EachQuorum) {
                for (write, _) in Consistency::NAMES {
                    let sets = 0..1_u32 << all.len();
                    let meet = sets
                        .clone()
                        .filter(|set| takes(*read, *set))
                        .all(|reads| sets.clone().filter(|set| takes(write, *set)).all(|writes| reads & writes != 0));
                    let can = sets.clone().any(|set| takes(*read, set)) && sets.clone().any(|set| takes(write, set));
                    let found = copies.check(*read, write, Some("a"));
                    assert_eq!(found.is_ok(), meet && can, "{of:?} read {read} write {write}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let both = copies(&[("dc1", 3), ("dc2", 3)]);
        for (copies, read, write, local, part) in [
            (&both, LocalQuorum, LocalQuorum, None, "store.local_dc must say"),
            (&both, LocalQuorum, LocalQuorum, Some("dc9"), "dc1, dc2"),
            (&both, EachQuorum, EachQuorum, Some("dc1"), "for writes only"),
            (&copies(&[("dc1", 1)]), Two, Two, None, "two needs 2 copies, and there are 1"),
            (&copies(&[("dc1", 3)]), One, One, None, "a read may miss a write"),
        ] {
            let error = copies.check(read, write, local).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
