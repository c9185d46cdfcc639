//! Configuration files.

use clap::Args;
use std::path::PathBuf;

/// `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Folder of `*.toml` files; node files in its folder `nodes` are checked too.
    #[arg(default_value = "cluster-config")]
    pub folder: PathBuf,
    /// JSON instead of lines.
    #[arg(long)]
    pub json: bool,
}

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Folder of `*.toml` files.
    #[arg(default_value = "cluster-config")]
    pub folder: PathBuf,
}

/// `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Folder of `*.toml` files.
    #[arg(default_value = "cluster-config")]
    pub folder: PathBuf,
    /// Applies without asking.
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Folder to write; it must be empty or not exist.
    pub folder: PathBuf,
}
