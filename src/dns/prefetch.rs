//! Tells the processor which memory will be read soon.
#![allow(unsafe_code, reason = "the prefetch instruction has no safe form; the one block has its argument")]

/// Starts to load what `at` refers to, and returns at once. A hint: where it has no instruction for it, nothing happens.
pub(crate) fn prefetch<T>(at: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: PREFETCHT0 belongs to SSE, which every x86-64 processor has, and it neither faults nor changes memory,
    // whatever the address.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(
            core::ptr::from_ref(at).cast(),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
