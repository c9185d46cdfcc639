//! Errors of keys: each names the file (or text) and what to do.

use std::{io, path::PathBuf};

/// Why keys could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}; make keys with `zonekeeper keys` or join with a token", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {path}: {source}; check the folder's owner and free space", path = .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A private key that others may read.
    #[error("{path} may be read by others (mode {mode:03o}); run chmod 600 on it", path = .path.display())]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file (or a text from a peer) is not what it should be.
    #[error("{what}: {why}")]
    Bad {
        /// The file's path, or what the text is.
        what: String,
        /// What is wrong and what to do.
        why: String,
    },
    /// The crypto library refuses.
    #[error("cannot {action}: {why}")]
    Crypto {
        /// What was tried.
        action: &'static str,
        /// What the library said.
        why: String,
    },
}

impl KeyError {
    /// A [`KeyError::Bad`].
    pub(crate) fn bad(what: impl Into<String>, why: impl Into<String>) -> KeyError {
        KeyError::Bad { what: what.into(), why: why.into() }
    }

    /// Wraps an error of a crypto library.
    pub(crate) fn crypto(action: &'static str) -> impl Fn(rcgen::Error) -> KeyError {
        move |e| KeyError::Crypto { action, why: e.to_string() }
    }
}
