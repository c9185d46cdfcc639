//! Back to files: what is written here loads to the same configuration.

use crate::{cluster::ClusterConfig, listener, pool, service, site, zone};
use std::{collections::BTreeMap, fmt::Write, path::PathBuf};
use toml::Table;
use zonekeeper_core::name::Name;

/// Everything but zones, as one table of sections.
pub(crate) fn objects(config: &ClusterConfig) -> Table {
    let mut root = Table::new();
    let mut put = |section: &str, table: Table| _ = root.insert(section.into(), table.into());
    put(
        "site",
        config
            .sites
            .iter()
            .map(|(k, v)| (k.to_string(), site::write(v, config.voters.contains(k)).into()))
            .collect(),
    );
    put("service", config.services.iter().map(|(k, v)| (k.to_string(), service::write(v).into())).collect());
    put("pool", config.pools.iter().map(|(k, v)| (k.to_string(), pool::write(v).into())).collect());
    put(
        "listener",
        config.listeners.iter().map(|(k, v)| (k.to_string(), listener::write(v).into())).collect(),
    );
    root
}

/// All files by path relative to the folder.
pub(crate) fn files(config: &ClusterConfig) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut objects = objects(config);
    for (file, sections) in [
        ("sites.toml", &["site"][..]),
        ("services.toml", &["service"]),
        ("proxy.toml", &["pool", "listener"]),
    ] {
        let part: Table = sections.iter().filter_map(|s| objects.remove_entry(*s)).collect();
        files.insert(file.into(), part.to_string());
    }
    let mut zones = Table::new();
    for (origin, (owner, set)) in &config.zones {
        let file = format!("zones/{}.zone", file_name(origin));
        zones.insert(origin.to_string(), zone::write(*owner, &file).into());
        files.insert(file.into(), zone::zone_file(origin, set));
    }
    let mut root = Table::new();
    root.insert("zone".into(), zones.into());
    files.insert("zones.toml".into(), root.to_string());
    files
}

/// A name as a file name: what could mean something to a file system is percent-encoded, so no two names meet.
fn file_name(origin: &Name) -> String {
    let text = origin.to_string();
    let mut file = String::new();
    for b in text.strip_suffix('.').unwrap_or(&text).bytes() {
        match b {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => file.push(b as char),
            _ => _ = write!(file, "%{b:02x}"),
        }
    }
    if file.is_empty() { "@".into() } else { file }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_harmless_and_distinct() {
        let file = |n: &str| Name::parse(n).map(|n| file_name(&n));
        assert_eq!(file("example.com"), Ok("example.com".into()));
        assert_eq!(file("0/25.2.0.192.in-addr.arpa"), Ok("0%2f25.2.0.192.in-addr.arpa".into()));
        assert_eq!(file("."), Ok("@".into()));
        assert_eq!(file("a\\.b"), Ok("a%5c.b".into()));
    }
}
