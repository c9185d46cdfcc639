//! What went wrong, and the next step.

use std::{io, path::PathBuf};

/// Why a command failed. Each text ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Nobody answers at the address.
    #[error(
        "cannot reach the admin API at {url}: {why}\n  is the node running there? another address: --admin URL, or \
         ZONEKEEPER_ADMIN"
    )]
    Unreachable {
        /// The address.
        url: String,
        /// How the attempt ended.
        why: String,
    },
    /// No token, or one that is not valid there.
    #[error(
        "{}\n  give one with --token-file PATH, ZONEKEEPER_TOKEN or --token; a new one is made by \
         `zonekeeper token create NAME --role ROLE`",
        if *.given { "the token is not valid at this node: unknown, removed or expired" } else { "a token is needed" }
    )]
    Unauthorized {
        /// Whether a token was given.
        given: bool,
    },
    /// The API refused.
    #[error("{message}{}", if .remedy.is_empty() { String::new() } else { format!("\n  {}", .remedy) })]
    Api {
        /// HTTP status.
        status: u16,
        /// Stable word.
        code: String,
        /// What went wrong.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// The answer is none of this API's.
    #[error(
        "{url} does not answer like a Zonekeeper admin API ({why})\n  check the address and that both versions fit"
    )]
    Foreign {
        /// The address.
        url: String,
        /// What is odd.
        why: String,
    },
    /// A file of the user's.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The arguments do not fit together.
    #[error("{0}")]
    Usage(String),
    /// The terminal or pipe is gone.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}
