//! What is exported loads back to the same.
#![allow(clippy::unwrap_used)] // a helper of a test may panic as the test may

mod common;

use common::any_config;
use proptest::prelude::*;
use zonekeeper_config::ClusterConfig;

fn write(config: &ClusterConfig) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("zones")).unwrap();
    for (path, text) in config.export() {
        std::fs::write(dir.path().join(path), text).unwrap();
    }
    dir
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_export_loads_back_to_the_same_configuration(config in any_config()) {
        let problems = config.validate();
        prop_assert!(!problems.has_errors(), "{}", problems);
        let dir = write(&config);
        let back = ClusterConfig::load(dir.path()).map_err(|p| TestCaseError::fail(p.to_string()))?;
        prop_assert_eq!(back, config);
    }
}

#[test]
fn the_smallest_configuration_survives_too() {
    let config = ClusterConfig::default();
    assert_eq!(ClusterConfig::load(write(&config).path()).unwrap(), config);
}
