//! Repository rules as tests: who may import whom, where `unsafe` may stand, how long a file may be.

#![allow(clippy::unwrap_used, reason = "a test: what cannot be read is a failure")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Which crates of ours a crate may depend on. What is not here is forbidden, so that the picture in `src/main.rs`
/// stays true.
const DIRECTIONS: [(&str, &[&str]); 10] = [
    ("src/core", &[]),
    ("src/peer", &["core"]),
    ("src/consensus", &["core", "peer"]),
    ("src/dns", &["core"]),
    ("src/proxy", &["core"]),
    ("src/config", &["core", "dns"]),
    ("src/api", &["core", "peer", "consensus", "dns", "proxy", "config"]),
    ("src/cli", &["core", "peer", "config", "api"]),
    ("chaos", &["core"]), // its invariants and words alone; what is judged is a process
    ("tests/sim", &["core", "consensus"]),
];

/// Libraries that one part alone may name.
const NAMED_BY: [(&str, &[&str]); 5] = [
    ("openraft", &["src/consensus", "tests/sim"]),
    ("sled", &["src/consensus"]),
    ("hickory-proto", &["src/dns"]),
    ("hickory-server", &["src/dns"]),
    ("axum", &["src/api"]),
];

/// Files that may hold `unsafe`, each with its reason at the top.
const UNSAFE: [&str; 9] = [
    "src/memory.rs",
    "src/priority.rs",
    "src/consensus/fsync.rs",
    "src/dns/prefetch.rs",
    "src/dns/udp_sys.rs",
    "src/dns/tests/allocation.rs",
    "src/proxy/socket.rs",
    "chaos/process.rs",
    "chaos/tun.rs",
];

/// What stands at the top, hidden files apart: the layout that was asked for, and what cargo and its tools read there.
const TOP: [&str; 12] = [
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "chaos",
    "clippy.toml",
    "cluster-config",
    "deny.toml",
    "deploy",
    "rustfmt.toml",
    "src",
    "tests",
];

/// A file that is longer has more than one responsibility.
const LINES: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let skipped = name == "target" || name.to_string_lossy().starts_with('.') && name != ".ci";
        if entry.file_type().unwrap().is_dir() && !skipped {
            walk(&path, out);
        } else if entry.file_type().unwrap().is_file() {
            out.push(path);
        }
    }
}

fn files(ending: &[&str]) -> BTreeMap<String, String> {
    let mut paths = Vec::new();
    walk(root(), &mut paths);
    let text = |p: &PathBuf| {
        let name = p.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        ending.iter().any(|e| name.ends_with(e)).then(|| (name, fs::read_to_string(p).unwrap()))
    };
    paths.iter().filter_map(text).collect()
}

fn none(found: Vec<String>, rule: &str) {
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// Dependencies of a manifest, dev-dependencies left out.
fn dependencies(manifest: &str) -> Vec<String> {
    let section = manifest.split("\n[").find(|s| s.starts_with("dependencies]")).unwrap_or_default();
    let name = |l: &str| l.split(['.', ' ', '=']).next().unwrap_or_default().to_owned();
    section.lines().skip(1).map(name).filter(|n| !n.is_empty()).collect()
}

#[test]
fn crates_import_only_in_the_directions_of_the_design() {
    let mut wrong = Vec::new();
    for (dir, allowed) in DIRECTIONS {
        let manifest = fs::read_to_string(root().join(dir).join("Cargo.toml")).unwrap();
        for dependency in dependencies(&manifest) {
            let ours = dependency.strip_prefix("zonekeeper-");
            if ours.is_some_and(|d| !allowed.contains(&d)) {
                wrong.push(format!("{dir} imports {dependency}"));
            }
            let named_by = NAMED_BY.iter().find(|(library, _)| *library == dependency);
            if named_by.is_some_and(|(_, by)| !by.contains(&dir)) {
                wrong.push(format!("{dir} names {dependency}"));
            }
        }
    }
    none(wrong, "an import against the directions");
}

#[test]
fn every_crate_has_its_directions() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = manifest.lines().find(|l| l.starts_with("members")).unwrap();
    for member in members.split('"').skip(1).step_by(2).filter(|m| *m != ".") {
        assert!(DIRECTIONS.iter().any(|(dir, _)| *dir == member), "{member} is missing in DIRECTIONS");
    }
}

#[test]
fn core_is_pure() {
    let lib = fs::read_to_string(root().join("src/core/lib.rs")).unwrap();
    assert!(lib.contains("#![no_std]"), "no_std is the purity fence");
    let clocks = ["std::time", "Instant", "SystemTime", "HashMap", "rand::"];
    let core =
        files(&[".rs"]).into_iter().filter(|(n, _)| n.starts_with("src/core/") && !n.contains("/tests/"));
    let code =
        |t: &str| t.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let wrong = core.filter(|(_, t)| clocks.iter().any(|c| code(t).contains(c))).map(|(n, _)| n);
    none(wrong.collect(), "core names a clock, a hash map or randomness");
}

#[test]
fn unsafe_stands_only_where_a_system_call_needs_it() {
    let word = concat!("unsafe", "_code, reason");
    let holds = files(&[".rs"]).into_iter().filter(|(_, t)| t.contains(&format!("allow({word}")));
    let wrong = holds.filter(|(n, _)| !UNSAFE.contains(&n.as_str())).map(|(n, _)| n);
    none(wrong.collect(), "unsafe in a file that is not in the list");
}

#[test]
fn nothing_strays_at_the_top() {
    let names =
        fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let stray =
        names.filter(|name| !name.starts_with('.') && name != "target" && !TOP.contains(&name.as_str()));
    none(stray.collect(), "a file at the top that belongs elsewhere, or nowhere");
}

#[test]
fn files_are_short_and_lines_fit() {
    let mut wrong = Vec::new();
    for (name, text) in files(&[".rs"]) {
        if text.lines().count() > LINES {
            wrong.push(format!("{name} has {} lines; split it by responsibility", text.lines().count()));
        }
    }
    none(wrong, "too long");
}

#[test]
fn nothing_is_left_for_later_without_a_name() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
    ];
    let mut wrong = Vec::new();
    for (name, text) in files(&[".rs", ".md", ".toml"]) {
        let hits = text.lines().enumerate().filter(|(_, l)| words.iter().any(|w| l.contains(w)));
        wrong.extend(hits.map(|(i, l)| format!("{name}:{}: {}", i + 1, l.trim())));
    }
    none(wrong, "left for later");
}

#[test]
fn no_machine_is_named() {
    let paths =
        [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("../sha", "red")];
    let mut wrong = Vec::new();
    for (name, text) in files(&[".rs", ".md", ".toml", ".sh", "run", ".service", ".yml", ".txt"]) {
        let hits = text.lines().enumerate().filter(|(_, l)| paths.iter().any(|p| l.contains(p)));
        wrong.extend(hits.map(|(i, l)| format!("{name}:{}: {}", i + 1, l.trim())));
    }
    none(wrong, "a path of one machine");
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let section = manifest.split("\n[").find(|s| s.starts_with("workspace.dependencies]")).unwrap();
    let ours = |l: &&str| l.contains(" = ") && !l.starts_with("zonekeeper-") && !l.starts_with('#');
    let plain = ["serde = ", "serde_json = ", "tokio = ", "tracing = "]; // asked for, and known to every reader
    let bare =
        section.lines().filter(ours).filter(|l| !l.contains('#') && !plain.iter().any(|p| l.starts_with(p)));
    none(bare.map(String::from).collect(), "a dependency without a reason beside it");
}
