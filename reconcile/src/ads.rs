//! The numbers of ads: joins, groups and sums go by these, which are compared faster than names.

use std::sync::Arc;

use hashbrown::HashMap;
use parking_lot::{RwLock, RwLockReadGuard};

/// Every ad that was met, with its number: as many as there are before it.
#[derive(Debug, Default)]
pub(crate) struct Ads(RwLock<Known>);

/// The ads known so far.
#[derive(Debug, Default)]
pub(crate) struct Known {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Ads {
    /// The number of each of these.
    pub(crate) fn numbers<S: AsRef<str>>(&self, names: &[S]) -> Vec<u32> {
        let mut found = Vec::with_capacity(names.len());
        let known = self.read();
        found.extend(names.iter().map_while(|name| known.numbers.get(name.as_ref())));
        drop(known);
        if let Some(rest @ [_, ..]) = names.get(found.len()..) {
            let mut known = self.0.write();
            found.extend(rest.iter().map(|name| known.add(name.as_ref())));
        }
        found
    }

    /// What is known by now. Nothing is added while somebody looks at it.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.0.read()
    }
}

impl Known {
    fn add(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let (name, number): (Arc<str>, _) = (name.into(), self.names.len() as u32);
        self.names.push(Arc::clone(&name));
        self.numbers.insert(name, number);
        number
    }

    /// The ad of a number.
    pub(crate) fn name(&self, number: u32) -> &str {
        self.names.get(number as usize).map_or("", |name| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ad_has_one_number_and_each_number_one_ad() {
        let ads = Ads::default();
        assert_eq!(ads.numbers(&["b", "a", "b"]), [0, 1, 0]);
        assert_eq!(ads.numbers(&["a", "", "c", "", "b"]), [1, 2, 3, 2, 0]);
        let known = ads.read();
        assert_eq!([0, 1, 2, 3].map(|number| known.name(number)), ["b", "a", "", "c"]);
    }
}
