//! The guest's own memory: one of these agents lives in every sandbox, so what it keeps while idle counts.

/// Freed memory beyond this at the heap's end goes back at once.
const TRIM_THRESHOLD: libc::c_int = 128 * 1024;
/// Buffers from this size on are mapped on their own, and so go back when they are freed.
const MMAP_THRESHOLD: libc::c_int = 64 * 1024;

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

/// Returns what is free inside the heap to the kernel; worth its while when the guest turns idle.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim is thread-safe and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
