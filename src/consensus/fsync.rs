//! Makes sled durable on Linux, and makes directory entries durable.
#![allow(unsafe_code)] // Two system interfaces: the symbol that sled calls, and errno.

use std::{
    fs::File,
    io,
    path::Path,
    time::{Duration, Instant},
};

/// Takes the place of the C library's function in this binary and says "not implemented".
///
/// sled 0.34.7 calls `sync_file_range` where it promises an fsync. That call writes out neither the file's metadata
/// nor the disk's cache (its manual page: "extremely dangerous"): in a power cut 5,000 of 5,000 acknowledged entries
/// were lost. On ENOSYS sled falls back to `File::sync_all`, for its own garbage collection as well.
///
/// # Safety
///
/// Touches no memory but `errno`. Nothing else in this program may rely on the real call; nothing does.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn sync_file_range(
    fd: libc::c_int,
    offset: libc::off64_t,
    nbytes: libc::off64_t,
    flags: libc::c_uint,
) -> libc::c_int {
    #[cfg(test)]
    if tests::real_call() {
        // SAFETY: a system call on a descriptor, with the caller's arguments; it touches no memory of ours.
        return unsafe { libc::syscall(libc::SYS_sync_file_range, fd, offset, nbytes, flags) as libc::c_int };
    }
    let _ = (fd, offset, nbytes, flags);
    // SAFETY: errno's address is valid for the calling thread.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

/// For so long a write to disk waits for a free descriptor.
const DESCRIPTOR_WAIT: Duration = Duration::from_secs(60);

/// Opens files as soon as this process and machine have a free descriptor, until a deadline: a flood of connections takes
/// them all, and a failed write stops Raft until the node is restarted.
pub(crate) struct Patience(Instant);

impl Patience {
    /// Of one write.
    pub(crate) fn new() -> Patience {
        Patience(Instant::now() + DESCRIPTOR_WAIT)
    }

    /// Runs what does nothing but open files, and again while it fails for want of a descriptor. Blocking.
    pub(crate) fn open<T>(&self, mut run: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            let done = run();
            let wants = |e: &io::Error| matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
            if !done.as_ref().is_err_and(wants) || Instant::now() > self.0 {
                return done;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// The symbol that sled was linked to is ours. The kernel's would answer EBADF to this descriptor.
pub(crate) fn is_in_place() -> bool {
    #[cfg(test)]
    if tests::real_call() {
        return true;
    }
    mod linked {
        unsafe extern "C" {
            pub(super) fn sync_file_range(fd: i32, offset: i64, nbytes: i64, flags: u32) -> i32;
        }
    }
    // SAFETY: a call that touches no memory, on a descriptor that is never open.
    let answer = unsafe { linked::sync_file_range(-1, 0, 0, 0) };
    answer == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS)
}

/// Makes the names in a directory durable; the parent of a relative name is "", the current one.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(test)]
    if tests::real_call() {
        return Ok(());
    }
    File::open(if dir.as_os_str().is_empty() { Path::new(".") } else { dir })?.sync_all()
}

/// Makes a fresh sled directory durable: its files, their names, and its own name.
pub(crate) fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.file_type()?.is_dir() {
            true => sync_dir(&entry.path())?,
            false => sync_dir_file(&entry.path())?,
        }
    }
    sync_dir(dir)?;
    dir.parent().map_or(Ok(()), sync_dir)
}

fn sync_dir_file(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.sync_all(),
        // sled removes its own temporary files meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::OnceLock;

    /// The remedy is taken out: only a child process of the power-cut test sets this variable.
    pub(super) fn real_call() -> bool {
        static REAL: OnceLock<bool> = OnceLock::new();
        *REAL.get_or_init(|| std::env::var_os("ZK_TEST_REAL_SYNC_FILE_RANGE").is_some())
    }

    #[test]
    fn a_relative_folder_stands_in_the_current_one() {
        super::sync_dir(std::path::Path::new("data").parent().unwrap()).unwrap();
    }

    #[test]
    fn the_symbol_that_sled_calls_is_ours() {
        assert!(super::is_in_place());
    }
}
