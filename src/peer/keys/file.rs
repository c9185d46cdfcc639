//! Files of the key folder: written whole or not at all, private ones for the owner only.

use super::error::KeyError;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Largest key file: a bundle of some dozen certificates.
const LIMIT: u64 = 256 << 10;

/// Reads a text file of bounded size.
pub(super) fn read(path: &Path) -> Result<String, KeyError> {
    let err = |source| KeyError::Read { path: path.into(), source };
    let size = fs::metadata(path).map_err(err)?.len();
    if size > LIMIT {
        return Err(KeyError::bad(
            path.display().to_string(),
            format!("has {size} bytes; key files have {LIMIT} at most"),
        ));
    }
    fs::read_to_string(path).map_err(err)
}

/// Reads a private key; refuses one that others may read.
pub(super) fn read_private(path: &Path) -> Result<String, KeyError> {
    let meta = fs::metadata(path).map_err(|source| KeyError::Read { path: path.into(), source })?;
    let mode = meta.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Mode { path: path.into(), mode });
    }
    read(path)
}

/// Makes the key folder, for the owner only if it is new.
pub(super) fn folder(dir: &Path) -> Result<(), KeyError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| KeyError::Write { path: dir.into(), source })
}

/// Writes a file atomically and durably: temporary file, fsync, rename, fsync of the folder.
pub(super) fn write(path: &Path, text: &str, mode: u32) -> Result<(), KeyError> {
    let mut tmp = path.as_os_str().to_owned();
    tmp.push(".tmp");
    let tmp = Path::new(&tmp);
    let put = || -> io::Result<()> {
        let _ = fs::remove_file(tmp); // left by a crash; a new file so that the mode is ours
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(tmp)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        rename(tmp, path)
    };
    put().map_err(|source| KeyError::Write { path: path.into(), source })
}

/// Renames a file within its folder, durably.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    let dir = to.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}
