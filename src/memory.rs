//! What a large import leaves behind goes back to the system.
#![allow(unsafe_code, reason = "malloc_trim(3) has no safe wrapper in our dependencies")]

/// Returns the allocator's free pages to the system. A zone of a million names is read, proposed and applied in many small
/// pieces, and what is kept lies between them: without this they stay with the process. Takes some ten milliseconds,
/// and whoever allocates meanwhile waits; those who answer queries do not allocate.
pub(crate) fn give_back() {
    // SAFETY: no pointers; glibc locks its arenas itself.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}
