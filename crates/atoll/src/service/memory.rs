//! What a server keeps of the memory that it once used: as little as is worth its while. A server lives for months, and
//! a password's hash takes 19 MiB, a build's log or a large answer as much; glibc would keep most of it, in one heap per
//! thread.

use std::time::Duration;

/// Heaps that threads share.
#[cfg(target_env = "gnu")]
const ARENAS: libc::c_int = 2;
/// From this size on a block is mapped by itself, and goes back when it is freed. Buffers of files are smaller: to map
/// each anew costs more than it saves.
#[cfg(target_env = "gnu")]
const MMAP_THRESHOLD: libc::c_int = 8 << 20;
/// Free memory beyond this at a heap's end goes back at once.
#[cfg(target_env = "gnu")]
const TRIM_THRESHOLD: libc::c_int = 16 << 20;

/// When what is free inside the heaps goes back: soon after the start, and now and then.
const FIRST_TIDYING: Duration = Duration::from_secs(10);
const TIDY_EVERY: Duration = Duration::from_secs(300);

/// Sets the allocator's bounds; called before there are threads.
pub fn be_thrifty() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator, and no other thread is running yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MMAP_THRESHOLD);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
    }
}

/// Gives free memory back for as long as the runtime lives.
pub async fn keep_tidy() {
    let first = tokio::time::Instant::now() + FIRST_TIDYING;
    let mut turns = tokio::time::interval_at(first, TIDY_EVERY);
    loop {
        turns.tick().await;
        let _ended_with_the_runtime = tokio::task::spawn_blocking(give_back).await;
    }
}

fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim is thread-safe and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
