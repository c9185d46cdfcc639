//! The sealed secrets: first ones, rollovers, another key, and what a cluster of version 1 leaves.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use support::*;
use zonekeeper_core::{
    Command, Entry, Outcome, Proposal, State, codec,
    cookies::{self, CookieSecret},
    entry::{Duty, Init, Member, Secret, Timing, Webhook},
    id::CertificateId,
    model::{Certificate, Change, Listener, Tls, TlsFiles},
    secrets::{KeyId, Ring, STAGED_MS, SecretId},
    time::LogTime,
};

const COOKIE: SecretId = SecretId::DnsCookie;
const URL: &str = "https://hook.example/path";

struct Log(State, u64, u64);

impl Log {
    /// A cluster of one version with three members, none of which votes.
    fn new(version: u32) -> Log {
        let mut log = Log(State::default(), 0, START);
        log.ok(Command::Init(Init { cluster: 7, version, timing: Timing::Lan }));
        for n in 1..=3 {
            let peer = ([10, 0, 0, n], 7000).into();
            let member = Member { site: site("a"), duty: Duty::Full, peer, admin: None, version: 2 };
            log.ok(Command::PutMember(n.into(), member));
        }
        log
    }

    fn say(&mut self, command: Command) -> Outcome {
        self.1 += 1;
        let entry = Entry { time: LogTime(self.2), proposal: Proposal::by("test", command).into() };
        self.0.apply(self.1, &entry)
    }

    #[track_caller]
    fn ok(&mut self, command: Command) -> zonekeeper_core::entry::Delta {
        match self.say(command) {
            Outcome::Applied(delta) => delta,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn no(&mut self, command: Command, why: &str) {
        match self.say(command) {
            Outcome::Refused(said) if said.contains(why) => {}
            other => panic!("not {why:?}: {other:?}"),
        }
    }

    #[track_caller]
    fn with(&mut self, from: Option<u64>, to: u64) {
        self.ok(Command::SealWith { from: from.map(KeyId), to: KeyId(to) });
    }

    fn ring(&self, id: &SecretId) -> &Ring {
        &self.0.secrets.vault.rings[id]
    }

    /// First bytes of the active, the staged and the previous one.
    fn held(&self, id: &SecretId) -> [u8; 3] {
        let ring = self.ring(id);
        [Some(&ring.active), ring.staged.as_ref(), ring.previous.as_ref()]
            .map(|s| s.map_or(0, |s| s.bytes[0]))
    }

    fn tick(&mut self, ms: u64) -> zonekeeper_core::entry::Delta {
        self.2 += ms;
        self.ok(Command::Tick)
    }

    fn put(&self, id: &SecretId, key: u64, byte: u8) -> Command {
        let after = self.0.secrets.vault.rings.get(id).map(Ring::newest);
        Command::PutSealed { id: id.clone(), after, key: KeyId(key), bytes: vec![byte; 44] }
    }

    fn reseal(&self, id: &SecretId, generation: u64, key: u64, byte: u8) -> Command {
        Command::Reseal { id: id.clone(), generation, key: KeyId(key), bytes: vec![byte; 44] }
    }
}

#[test]
fn a_rollover_stages_uses_and_retires() {
    let mut log = Log::new(2);
    log.no(log.put(&COOKIE, 1, 1), "not the cluster's key");
    log.with(None, 1);
    log.ok(log.put(&COOKIE, 1, 1));
    assert_eq!(log.held(&COOKIE), [1, 0, 0], "the first is used at once");
    assert!(!log.ring(&COOKIE).known);
    let Command::PutSealed { id, key, .. } = log.put(&COOKIE, 1, 2) else { unreachable!() };
    let second = |after| Command::PutSealed { id: id.clone(), after, key, bytes: vec![2; 44] };
    log.no(second(None), "changed meanwhile");
    log.ok(log.put(&COOKIE, 1, 2));
    assert_eq!(log.held(&COOKIE), [1, 2, 0], "accepted before it is used");
    log.no(log.put(&COOKIE, 1, 3), "goes on already");
    log.tick(STAGED_MS - 1);
    assert_eq!(log.held(&COOKIE), [1, 2, 0]);
    log.tick(1);
    assert_eq!(log.held(&COOKIE), [2, 0, 1], "the old one is accepted");
    log.no(log.put(&COOKIE, 1, 3), "goes on already");
    log.tick(cookies::ACCEPTED_MS - 1);
    assert_eq!(log.held(&COOKIE), [2, 0, 1]);
    log.tick(1);
    assert_eq!(log.held(&COOKIE), [2, 0, 0]);
    assert_eq!(log.ring(&COOKIE).due(&COOKIE), None);
    log.no(Command::PutSealed { id: COOKIE, after: None, key: KeyId(1), bytes: vec![0; 1 << 20] }, "at most");
}

#[test]
fn the_proxy_hears_of_every_step_of_its_secret() {
    let mut log = Log::new(2);
    log.with(None, 1);
    assert!(log.ok(log.put(&SecretId::Session, 1, 1)).proxy);
    assert!(!log.ok(log.put(&COOKIE, 1, 1)).proxy);
    assert!(log.ok(log.put(&SecretId::Session, 1, 2)).proxy, "accepted from now on");
    log.ok(log.put(&COOKIE, 1, 2));
    assert!(log.tick(STAGED_MS).proxy);
    assert!(!log.tick(cookies::ACCEPTED_MS).proxy, "that was the cookies' step");
    assert!(log.tick(24 * 3_600_000).proxy);
}

#[test]
fn what_version_1_left_is_dropped_with_its_first_sealed_one_and_counts_as_known() {
    let mut log = Log::new(1);
    let hook = SecretId::Webhook(URL.into());
    log.ok(Command::PutSecret(Secret([41; 32])));
    log.ok(Command::RollCookies(CookieSecret([42; 16])));
    log.ok(Command::PutWebhook(Webhook { url: URL.into(), secret: "a signing key".into() }));
    let before = codec::bytes(&log.0.secrets);
    assert_eq!(before[..2], [1, 41], "as version 1 wrote it");
    log.no(Command::SealWith { from: None, to: KeyId(1) }, "upgrade the cluster");
    log.ok(Command::Upgrade(2));
    assert_eq!(codec::bytes(&log.0.secrets), before);
    let plain = [
        Command::PutSecret(Secret([1; 32])),
        Command::RollCookies(CookieSecret([1; 16])),
        Command::PutWebhook(Webhook { url: URL.into(), secret: "other".into() }),
    ];
    plain.into_iter().for_each(|command| log.no(command, "seals its secrets"));

    log.with(None, 1);
    for id in [SecretId::Session, COOKIE, hook.clone()] {
        assert!(log.0.unsealed(&id).is_some());
        log.ok(log.put(&id, 1, 5));
        assert_eq!(log.0.unsealed(&id), None, "{id:?}");
        assert_eq!((log.held(&id), log.ring(&id).known), ([5, 0, 0], true), "{id:?}");
    }
    let state = codec::bytes(&log.0);
    for secret in [&[41; 32][..], &[42; 16], b"a signing key"] {
        assert!(!state.windows(secret.len()).any(|w| w == secret), "{secret:?} is still there");
    }
    log.ok(log.put(&COOKIE, 1, 6));
    assert_eq!((log.held(&COOKIE), log.ring(&COOKIE).known), ([5, 6, 0], false), "rolled");
    log.ok(log.put(&hook, 1, 6));
    assert_eq!((log.held(&hook), log.ring(&hook).known), ([6, 0, 0], false), "a receiver knows one key");
}

#[test]
fn a_key_is_replaced_when_a_member_leaves_and_everything_is_sealed_anew() {
    let mut log = Log::new(2);
    log.ok(Command::RemoveMember(3));
    assert!(!log.0.secrets.vault.exposed, "there is no key yet");
    log.no(Command::Rekey, "no key yet");
    log.with(None, 1);
    for id in [SecretId::Session, COOKIE] {
        log.ok(log.put(&id, 1, 1));
        log.ok(log.put(&id, 1, 2));
    }
    log.ok(Command::RemoveMember(2));
    assert!(log.0.secrets.vault.exposed);
    log.no(Command::SealWith { from: None, to: KeyId(2) }, "another one by now");
    log.no(Command::SealWith { from: Some(KeyId(1)), to: KeyId(1) }, "another one by now");
    log.with(Some(1), 2);
    assert!(!log.0.secrets.vault.exposed);
    assert_eq!(log.0.secrets.vault.keys(), [KeyId(2), KeyId(1)]);
    log.no(log.put(&COOKIE, 1, 3), "not the cluster's key");
    log.ok(log.put(&COOKIE, 2, 3));
    assert_eq!(log.held(&COOKIE), [1, 3, 0], "known: replaced in the middle of a rollover");
    for id in [SecretId::Session, COOKIE] {
        let old: Vec<u64> = log.ring(&id).all().filter(|s| s.key == KeyId(1)).map(|s| s.generation).collect();
        for generation in old {
            log.no(log.reseal(&id, generation, 1, 9), "not the cluster's key");
            log.ok(log.reseal(&id, generation, 2, 9));
        }
    }
    assert_eq!(log.held(&COOKIE), [9, 3, 0]);
    assert_eq!(log.0.secrets.vault.keys(), [KeyId(2)], "nobody needs the old key");
    log.no(log.reseal(&COOKIE, 1, 2, 9), "is gone");
    log.ok(Command::Rekey);
    assert!(log.0.secrets.vault.exposed, "by hand");
}

#[test]
fn a_certificate_is_replaced_at_once_and_stays_while_a_listener_uses_it() {
    let name = || "www".parse::<CertificateId>().unwrap();
    let id = SecretId::Certificate(name());
    let mut log = Log::new(2);
    log.with(None, 1);
    log.no(Command::RemoveCertificate(name()), "no certificate www");
    assert!(log.ok(log.put(&id, 1, 1)).proxy, "listeners read it");
    assert!(log.ok(log.put(&id, 1, 2)).proxy);
    assert_eq!((log.held(&id), log.ring(&id).due(&id)), ([2, 0, 0], None));

    let tls = Tls { certificates: vec![Certificate::Held(name())], ..Tls::from(TlsFiles::default()) };
    let listener = Listener { tls: Some(tls), ..Listener::default() };
    let put = Change::PutListener("front".parse().unwrap(), Box::new(listener));
    assert_eq!(Command::Configure(vec![put.clone()]).since(), 2);
    log.ok(Command::Configure(vec![put]));
    log.no(Command::RemoveCertificate(name()), "the listener front uses");

    log.with(Some(1), 2);
    assert!(log.ring(&id).known, "who has the old key can read it");
    assert!(log.ok(log.reseal(&id, log.ring(&id).newest(), 2, 3)).proxy, "a node may be able to open it now");
    assert!(log.held(&id) == [3, 0, 0] && log.ring(&id).known, "the same one");
    log.ok(log.put(&id, 2, 4));
    assert!(!log.ring(&id).known);

    log.ok(Command::Configure(vec![Change::RemoveListener("front".parse().unwrap())]));
    log.ok(Command::RemoveCertificate(name()));
    assert!(!log.0.secrets.vault.rings.contains_key(&id));
}

#[test]
fn certificates_are_bounded() {
    let mut log = Log::new(2);
    log.with(None, 1);
    for n in 0..1000 {
        log.ok(log.put(&SecretId::Certificate(format!("c{n}").parse().unwrap()), 1, 1));
    }
    log.no(log.put(&SecretId::Certificate("more".parse().unwrap()), 1, 1), "too many certificates");
    log.ok(log.put(&SecretId::Certificate("c7".parse().unwrap()), 1, 2));
}

#[test]
fn a_removed_webhook_takes_its_key_along() {
    let mut log = Log::new(2);
    let hook = SecretId::Webhook(URL.into());
    log.with(None, 1);
    log.no(log.put(&SecretId::Webhook("ftp://x".into()), 1, 1), "must begin with http");
    log.ok(log.put(&hook, 1, 1));
    assert_eq!(log.0.webhooks[URL].secret, "");
    log.ok(Command::RemoveWebhook(URL.into()));
    assert!(log.0.webhooks.is_empty() && log.0.secrets.vault.rings.is_empty());
    log.no(Command::RemoveWebhook(URL.into()), "no webhook");
}

#[test]
fn what_cannot_be_opened_is_passed_over() {
    let mut log = Log::new(2);
    log.with(None, 1);
    log.ok(log.put(&COOKIE, 1, 1));
    log.with(Some(1), 2);
    log.ok(log.put(&COOKIE, 2, 2));
    let opened = |key| {
        let open = |k, context: &[u8], sealed: &[u8]| {
            (k == KeyId(key) && context == COOKIE.context()).then(|| sealed[..1].to_vec())
        };
        log.0.secrets.vault.opened(&COOKIE, open)
    };
    assert_eq!((opened(1), opened(2), opened(3)), (vec![vec![1]], vec![vec![2]], vec![]));
}

#[test]
fn no_two_secrets_have_one_context_and_none_is_shown() {
    let ids = [COOKIE, SecretId::Session, SecretId::Webhook("a".into()), SecretId::Webhook("b".into())];
    let contexts: std::collections::BTreeSet<_> = ids.iter().map(SecretId::context).collect();
    assert_eq!(contexts.len(), ids.len());
    let mut log = Log::new(2);
    log.with(None, 0xabc);
    log.ok(log.put(&COOKIE, 0xabc, 77));
    let shown = format!("{:?}", log.ring(&COOKIE));
    assert!(shown.contains("under 0000000000000abc") && !shown.contains("77"), "{shown}");
}
