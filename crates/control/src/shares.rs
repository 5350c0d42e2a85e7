//! Places of which there are so many in all, and so many for one holder: nobody has them all.
//!
//! Nothing waits here: who asks for more than is free is told so at once, and whether it is their own share that is
//! used up or everybody's.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The holder has as many as one may have.
    Share,
    /// All are taken.
    All,
}

/// Places for holders of the kind `K`. Clones share them.
#[derive(Debug)]
pub struct Shares<K> {
    all: usize,
    each: usize,
    taken: Arc<Mutex<Taken<K>>>,
}

impl<K> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self { all: self.all, each: self.each, taken: Arc::clone(&self.taken) }
    }
}

#[derive(Debug)]
struct Taken<K> {
    all: usize,
    by: HashMap<K, usize>,
}

impl<K: Hash + Eq + Clone> Shares<K> {
    /// `all` places, of which one holder has at most `each`.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Self {
        Self { all, each, taken: Arc::new(Mutex::new(Taken { all: 0, by: HashMap::new() })) }
    }

    /// The same where one holder has at most half of them.
    #[must_use]
    pub fn halved(all: usize) -> Self {
        Self::new(all, all.div_ceil(2))
    }

    fn taken(&self) -> MutexGuard<'_, Taken<K>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes so many places until the answer is dropped.
    ///
    /// # Errors
    /// When they are not free.
    pub fn take(&self, holder: &K, places: usize) -> Result<Share<K>, Full> {
        let mut taken = self.taken();
        if taken.all.saturating_add(places) > self.all {
            return Err(Full::All);
        }
        let own = taken.by.get(holder).copied().unwrap_or(0).saturating_add(places);
        if own > self.each {
            return Err(Full::Share);
        }
        taken.all += places;
        taken.by.insert(holder.clone(), own);
        drop(taken);
        Ok(Share { shares: self.clone(), holder: holder.clone(), places })
    }

    /// How many are taken.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.taken().all
    }
}

/// Places that somebody has.
#[derive(Debug)]
pub struct Share<K: Hash + Eq + Clone> {
    shares: Shares<K>,
    holder: K,
    places: usize,
}

impl<K: Hash + Eq + Clone> Drop for Share<K> {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all = taken.all.saturating_sub(self.places);
        if let Some(own) = taken.by.get_mut(&self.holder) {
            *own = own.saturating_sub(self.places);
            if *own == 0 {
                taken.by.remove(&self.holder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_gets_its_share_all_together_get_all_and_what_is_given_back_is_free() {
        let shares = Shares::new(5, 3);
        let first = shares.take(&"a", 2).unwrap();
        let second = shares.take(&"a", 1).unwrap();
        assert_eq!(shares.take(&"a", 1).unwrap_err(), Full::Share);
        let third = shares.take(&"b", 2).unwrap();
        assert_eq!(shares.take(&"c", 1).unwrap_err(), Full::All);
        drop((first, third));
        assert_eq!(shares.in_use(), 1);
        drop(second);
        assert_eq!((shares.in_use(), shares.taken().by.len()), (0, 0), "nothing is kept of those who are gone");
        assert!(shares.take(&"a", 3).is_ok());
        assert_eq!(shares.take(&"a", usize::MAX).unwrap_err(), Full::All);
    }
}
