//! The reference configuration in `cluster-config/`: every file loads, and its README explains every field.
#![allow(clippy::unwrap_used)] // a helper of a test may panic as the test may

use std::{collections::BTreeSet, path::PathBuf};
use zonekeeper_config::{ClusterConfig, NodeConfig, fields};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../cluster-config")
}

fn reference() -> ClusterConfig {
    ClusterConfig::load(&folder()).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn the_reference_configuration_loads_without_a_warning() {
    let (config, problems) = ClusterConfig::check(&folder());
    assert_eq!(problems.to_string(), "");
    let config = config.unwrap();
    let counts = [
        config.sites.len(),
        config.zones.len(),
        config.services.len(),
        config.pools.len(),
        config.listeners.len(),
    ];
    assert_eq!(counts, [3, 2, 3, 4, 2]);
    assert_eq!(config.validate().to_string(), "");
}

#[test]
fn every_node_file_loads_and_fits_the_cluster() {
    let files: Vec<PathBuf> =
        std::fs::read_dir(folder().join("nodes")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 3);
    let mut ids = BTreeSet::new();
    for file in files {
        let node = NodeConfig::load(&file).unwrap_or_else(|problems| panic!("{problems}"));
        assert_eq!(node.against(&reference()).to_string(), "");
        assert!(ids.insert(node.id), "{} has the id of another node", file.display());
    }
}

/// The fields that the README explains, by heading.
fn explained() -> Vec<(String, BTreeSet<String>)> {
    let text = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let mut sections = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            sections.push((heading.replace('`', ""), BTreeSet::new()));
        } else if let (Some(row), Some((_, fields))) = (line.strip_prefix("| `"), sections.last_mut()) {
            fields.insert(row.split('`').next().unwrap().to_string());
        }
    }
    sections
}

#[test]
fn the_readme_explains_every_field_and_no_other() {
    let known = fields().into_iter().map(|(section, fields)| {
        (section.to_string(), fields.iter().map(ToString::to_string).collect::<BTreeSet<_>>())
    });
    assert_eq!(explained(), known.collect::<Vec<_>>());
}
