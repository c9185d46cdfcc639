//! Nothing that stands in a file makes the reader panic, and what did not come from a file is held to the same rules.
#![allow(clippy::unwrap_used)] // a helper of a test may panic as the test may

mod common;

use common::{any_config, name, small};
use proptest::{prelude::*, sample::Index};
use std::{fs, path::PathBuf};
use zonekeeper_config::{ClusterConfig, NodeConfig};
use zonekeeper_core::model::ZoneOwner;

fn reference(file: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../cluster-config").join(file))
        .unwrap()
}

/// Cuts a piece out and puts another one in, at character borders.
fn damage(text: &str, from: Index, len: usize, with: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let from = from.index(chars.len());
    let to = (from + len).min(chars.len());
    chars[..from].iter().copied().chain(with.chars()).chain(chars[to..].iter().copied()).collect()
}

const PIECES: [&str; 16] = [
    "",
    "=",
    "\"",
    "[",
    "]",
    "{}",
    "[[",
    "-1",
    "99999999999999999999",
    "1979-05-27",
    "nan",
    "true",
    "\n",
    "'''",
    "ä\0",
    "[service.web]\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_damaged_file_is_explained_or_loads(at in any::<Index>(), len in 0..40usize, with in 0..PIECES.len(), which in 0..4usize) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("zones")).unwrap();
        let files = ["services.toml", "proxy.toml", "zones.toml", "zones/example.com.zone", "sites.toml", "zones/dyn.example.com.zone"];
        for (i, file) in files.iter().enumerate() {
            let text = reference(file);
            let text = if i == which { damage(&text, at, len, PIECES[with]) } else { text };
            fs::write(dir.path().join(file), text).unwrap();
        }
        let (config, problems) = ClusterConfig::check(dir.path());
        prop_assert_eq!(config.is_none(), problems.has_errors());
        prop_assert!(config.is_some() || problems.0.iter().all(|p| p.place.is_some()), "{}", problems);
        let node = dir.path().join("node.toml");
        fs::write(&node, damage(&reference("nodes/fra-1.toml"), at, len, PIECES[with])).unwrap();
        if let Err(problems) = NodeConfig::load(&node) {
            prop_assert!(problems.has_errors());
        }
    }

    #[test]
    fn a_valid_configuration_needs_no_file_to_be_valid(config in any_config()) {
        let problems = config.validate();
        prop_assert!(!problems.has_errors(), "{}", problems);
    }
}

#[test]
fn ranges_hold_without_a_file_too() {
    let mut config = small();
    let web = config.services.values_mut().next().unwrap();
    (web.ttl, web.min_answers) = (0, 9);
    web.names.push(name("www.example.net"));
    config.zones.insert(name("example.org"), (ZoneOwner::Api, Vec::new()));
    config.voters.clear();
    let said = config.validate().to_string();
    let lines: Vec<&str> = said.lines().map(|l| l.split(';').next().unwrap()).collect();
    assert_eq!(
        lines,
        [
            "service.web.min_answers: 9 is more than the 3 sites with an endpoint, so automation could never move anything",
            "service.web.names[1]: www.example.net. lies in no declared zone (example.com., example.org.)",
            "service.web.quorum: an unreachable quorum: 1 sites must see \"ams\" down, but only 0 of the 0 voting sites can judge it",
            "service.web.ttl: 0 is out of range",
            "zone.\"example.org\": has no NS record at its apex",
            "zone.\"example.org\": has no SOA record at its apex",
        ]
    );
}

#[test]
fn a_folder_without_files_is_a_problem() {
    let dir = tempfile::tempdir().unwrap();
    let said = ClusterConfig::load(dir.path()).unwrap_err().to_string();
    assert!(
        said.ends_with("the folder has no *.toml file; give the folder that declares the cluster"),
        "{said}"
    );
    let said = ClusterConfig::load(&dir.path().join("absent")).unwrap_err().to_string();
    assert!(said.contains("absent: the folder cannot be read: "), "{said}");
}
