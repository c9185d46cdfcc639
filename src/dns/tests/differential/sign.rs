//! Zones signed by BIND's tools: with NSEC, with NSEC3, and with NSEC3 that opts out.

use crate::{
    peers::installed,
    zones::{Rng, Text},
};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// How absence is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chain {
    Nsec,
    Nsec3,
    OptOut,
}

fn run(dir: &Path, program: &str, args: &[&str]) -> Option<String> {
    let out = Command::new(program).args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap();
    if !out.status.success() {
        eprintln!("{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        return None;
    }
    Some(String::from_utf8_lossy(&out.stdout).trim().to_string())
}

/// Signs a zone; none when the tools are missing. The names of its denials are asked for too.
pub(crate) fn sign(dir: &Path, rng: &mut Rng, zone: &Text, chain: Chain) -> Option<Text> {
    let (keygen, signer) = (installed("dnssec-keygen")?, installed("dnssec-signzone")?);
    let key = run(dir, &keygen, &["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", &zone.origin])?;
    let mut text = zone.text.clone();
    text.push_str(&fs::read_to_string(dir.join(format!("{key}.key"))).unwrap());
    fs::write(dir.join("unsigned"), text).unwrap();
    let mut args = vec!["-z", "-P", "-e", "+864000", "-o", &zone.origin, "-f", "signed"];
    let iterations = ["0", "1", "10"][rng.below(3)];
    match chain {
        Chain::Nsec => {}
        Chain::Nsec3 => args.extend(["-3", "-", "-H", "0"]),
        Chain::OptOut => args.extend(["-3", "AABBCCDD", "-H", iterations, "-A"]),
    }
    args.extend(["unsigned", &key]);
    run(dir, &signer, &args)?;
    let text = fs::read_to_string(dir.join("signed")).unwrap();
    let mut names = zone.names.clone();
    let hashed = |l: &&str| l.split_whitespace().nth(3) == Some("NSEC3");
    names.extend(text.lines().filter(hashed).filter_map(|l| l.split(' ').next()).take(3).map(String::from));
    Some(Text { origin: zone.origin.clone(), text, names })
}
