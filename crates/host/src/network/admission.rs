//! Places for what is in flight on behalf of sandboxes: so many together, and so many of each.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bounds what is in flight for each sandbox, and for all.
#[derive(Debug)]
pub(super) struct Admission {
    total: Arc<Semaphore>,
    each: u32,
    sources: Mutex<HashMap<Ipv4Addr, u32>>,
}

/// A place in the queue; given back when dropped.
pub(super) struct Admitted {
    admission: Arc<Admission>,
    source: Ipv4Addr,
    _permit: OwnedSemaphorePermit,
}

impl Admission {
    pub fn new(total: usize, each: u32) -> Arc<Self> {
        Arc::new(Self { total: Arc::new(Semaphore::new(total)), each, sources: Mutex::default() })
    }

    pub fn admit(self: &Arc<Self>, source: Ipv4Addr) -> Option<Admitted> {
        let permit = Arc::clone(&self.total).try_acquire_owned().ok()?;
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sources.entry(source).or_insert(0);
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Admitted { admission: Arc::clone(self), source, _permit: permit })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut sources = self.admission.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = sources.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                sources.remove(&self.source);
            }
        }
    }
}
