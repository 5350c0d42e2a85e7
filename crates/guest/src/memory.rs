//! The guest's own memory: one of these agents lives in every sandbox, so what it keeps while idle counts.
//!
//! While there is work, freed buffers stay at hand, since getting fresh pages from the kernel for every buffer costs more
//! than the work itself. A moment after it they go back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Freed memory beyond this at the heap's end goes back at once.
const TRIM_THRESHOLD: libc::c_int = 8 * 1024 * 1024;
/// Buffers from this size on are mapped on their own, and so go back when they are freed.
const MMAP_THRESHOLD: libc::c_int = 2 * 1024 * 1024;

/// How long after the first sign of work, and then again for as long as there is some, free memory is given back.
const TIDY_AFTER: Duration = Duration::from_secs(1);

static TIDYING: AtomicBool = AtomicBool::new(false);

/// Makes the allocator thrifty; called once, before any thread exists.
pub fn be_thrifty() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator, and no other thread is running yet.
    unsafe {
        // Threads share one heap: a heap of their own would each keep what they once used.
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
    }
}

/// Maps the whole program in, in one go: the first request then meets no page fault for its code. Done right after the
/// guest has said that it is ready, when whoever waited for that works on another processor. The pages are the same for
/// all sandboxes; a kernel before 5.14 refuses, and nothing is lost.
pub fn map_program() {
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    const PAGE: usize = 4096;
    let start = (&raw const __executable_start).addr() & !(PAGE - 1);
    let length = (&raw const etext).addr().saturating_sub(start);
    // SAFETY: the linker's two symbols bound this program's own read-only and code pages, and the advice only reads.
    unsafe {
        libc::madvise(std::ptr::with_exposed_provenance_mut(start), length, libc::MADV_POPULATE_READ);
    }
}

/// Returns what is free inside the heap to the kernel; worth its while when the guest turns idle.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim is thread-safe and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Gives back soon, once for any number of calls until then.
pub fn give_back_soon() {
    if !TIDYING.swap(true, Ordering::Relaxed) {
        tokio::spawn(async {
            tokio::time::sleep(TIDY_AFTER).await;
            TIDYING.store(false, Ordering::Relaxed);
            give_back();
        });
    }
}
