//! The key folder.

#![allow(clippy::unwrap_used)] // tests, with their helpers

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime},
};
use support::*;
use zonekeeper_peer::keys::{Ca, Credentials, Identity, KeyError};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_ca_survives_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new/ca");
    let made = ca();
    made.save(&dir).unwrap();
    assert_eq!((mode(&dir), mode(&dir.join("ca.key")), mode(&dir.join("ca.pem"))), (0o700, 0o600, 0o644));
    let read = Ca::load(&dir).unwrap();
    assert_eq!(
        (read.cluster(), read.fingerprint(), read.cert_pem()),
        (CLUSTER, made.fingerprint(), made.cert_pem())
    );
    // What the one signs, the other's bundle accepts.
    let credentials = read.issue(3, &site(), DAY).unwrap().trust(made.cert_pem()).unwrap();
    assert_eq!(credentials.ca_fingerprint(), made.fingerprint());
    // In a bundle with two CAs, the one that the key belongs to is found.
    fs::write(dir.join("ca.pem"), format!("{}{}", ca().cert_pem(), made.cert_pem())).unwrap();
    assert_eq!(Ca::load(&dir).unwrap().fingerprint(), made.fingerprint());
}

#[test]
fn credentials_survive_their_folder_and_a_crash_in_the_middle_of_a_renewal() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, dir) = (ca(), dir.path());
    let first = credentials(&ca, 3);
    first.save(dir).unwrap();
    assert_eq!(mode(&dir.join("node.key")), 0o600);
    assert_eq!(Credentials::load(dir).unwrap().cert_pem(), first.cert_pem());
    let old_key = fs::read(dir.join("node.key")).unwrap();
    let second = credentials(&ca, 3);
    second.save(dir).unwrap();
    assert_eq!(Credentials::load(dir).unwrap().cert_pem(), second.cert_pem());
    // Crash before the last rename: the new certificate, the old key, the new key beside it.
    fs::rename(dir.join("node.key"), dir.join("node.key.next")).unwrap();
    fs::write(dir.join("node.key"), old_key).unwrap();
    fs::set_permissions(dir.join("node.key"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(Credentials::load(dir).unwrap().cert_pem(), second.cert_pem());
    assert!(!dir.join("node.key.next").exists());
    assert_eq!(Credentials::load(dir).unwrap().cert_pem(), second.cert_pem());
    // Crash before the certificate was written: the new key is of no use yet.
    first.save(dir).unwrap();
    fs::write(dir.join("node.key.next"), "half a k").unwrap();
    fs::set_permissions(dir.join("node.key.next"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(Credentials::load(dir).unwrap().cert_pem(), first.cert_pem());
}

#[test]
fn a_bad_folder_is_refused_with_the_file_and_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let (ca, dir) = (ca(), dir.path());
    let says = |words: &[&str]| {
        let text = Credentials::load(dir).unwrap_err().to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    };
    says(&["node.pem", "zonekeeper keys"]);
    credentials(&ca, 3).save(dir).unwrap();
    fs::set_permissions(dir.join("node.key"), fs::Permissions::from_mode(0o640)).unwrap();
    says(&["node.key", "640", "chmod 600"]);
    credentials(&ca, 3).save(dir).unwrap();
    fs::write(dir.join("node.key"), "not a key").unwrap();
    says(&["node.key", "not a private key"]);
    credentials(&ca, 3).save(dir).unwrap();
    fs::write(dir.join("node.pem"), credentials(&ca, 3).cert_pem()).unwrap();
    says(&["node.key", "does not belong"]);
    credentials(&ca, 3).save(dir).unwrap();
    fs::write(dir.join("ca.pem"), Ca::create(9).unwrap().cert_pem()).unwrap();
    says(&["ca.pem", "of cluster 00000000000000000000000000000009"]);
    fs::write(dir.join("ca.pem"), Ca::create(CLUSTER).unwrap().cert_pem()).unwrap();
    says(&["node.pem", "not issued by a CA"]);
    fs::write(dir.join("ca.pem"), "x".repeat(1 << 20)).unwrap();
    says(&["ca.pem", "at most"]);
    assert!(matches!(Ca::load(dir), Err(KeyError::Read { path, .. }) if path.ends_with("ca.key")));
}

#[test]
fn a_certificate_says_who_and_how_long_and_the_request_has_no_say_in_it() {
    let ca = ca();
    let request = Credentials::request().unwrap();
    let issued = ca.sign(request.csr_pem(), 4, &site(), Duration::from_secs(900)).unwrap();
    let credentials = request.finish(&issued.cert_pem, &issued.ca_pem).unwrap();
    let Identity { cluster, node, not_before, not_after } = credentials.identity();
    assert_eq!((cluster, node), (CLUSTER, 4));
    assert_eq!(not_after.duration_since(not_before).unwrap().as_secs(), 900 + 25 * 3600);
    assert!(not_before <= SystemTime::now() - Duration::from_secs(25 * 3600), "for clocks that are behind");
    assert!(ca.sign("garbage", 4, &site(), DAY).is_err());
    let strange = Credentials::request().unwrap().finish(&issued.cert_pem, &issued.ca_pem);
    assert!(strange.unwrap_err().to_string().contains("does not belong"));
}

#[test]
fn nodes_renew_at_two_thirds_of_the_lifetime_but_not_all_at_once() {
    let ca = ca();
    let at = |node| {
        let credentials = credentials(&ca, node);
        let start = credentials.expires() - DAY;
        credentials.renew_at().duration_since(start).unwrap().as_secs()
    };
    assert_eq!(at(8), DAY.as_secs() * 2 / 3);
    let all: std::collections::BTreeSet<u64> = (1..=8).map(at).collect();
    assert_eq!(all.len(), 8);
    assert!(*all.first().unwrap() > DAY.as_secs() * 7 / 12);
}
