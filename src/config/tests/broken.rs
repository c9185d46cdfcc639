//! What a person is told about each broken configuration in `tests/broken-config/`.
//!
//! Each folder is a cluster's configuration, or holds a `node.toml`; `expected.txt` is what `check` says about it.
//! `UPDATE_EXPECT=1 cargo test -p zonekeeper-config` writes the files anew: read the difference before you keep it.
#![allow(clippy::unwrap_used)] // a helper of a test may panic as the test may

use std::path::{Path, PathBuf};
use zonekeeper_config::{ClusterConfig, NodeConfig};

fn folders() -> Vec<PathBuf> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/broken-config");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    folders
}

/// What is said, with paths as they look from the folder itself.
fn said(folder: &Path) -> String {
    let node = folder.join("node.toml");
    let problems = if node.exists() {
        NodeConfig::load(&node).expect_err("a broken node file loads")
    } else {
        let (config, mut problems) = ClusterConfig::check(folder);
        assert_eq!(config.is_none(), problems.has_errors(), "{}", folder.display());
        problems.0.extend(config.iter().flat_map(|c| c.check_nodes(folder).0));
        problems
    };
    let prefix = format!("{}/", folder.display());
    problems.to_string().replace(&prefix, "") + "\n"
}

#[test]
fn each_broken_configuration_is_explained() {
    let folders = folders();
    assert!(folders.len() >= 25, "only {} broken configurations", folders.len());
    let mut wrong = Vec::new();
    for folder in folders {
        let (said, file) = (said(&folder), folder.join("expected.txt"));
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&file, &said).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        if said != expected {
            wrong.push(format!("{}\n--- said\n{said}--- expected\n{expected}", folder.display()));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_EXPECT=1 rewrites these:\n\n{}", wrong.join("\n"));
}

#[test]
fn every_problem_names_its_file() {
    for folder in folders() {
        let said = said(&folder);
        assert!(said.len() > 1, "nothing is said about {}", folder.display());
        for line in said.lines() {
            let file = line.split(':').next().unwrap();
            assert!(folder.join(file).exists(), "{}: no file in: {line}", folder.display());
        }
    }
}
