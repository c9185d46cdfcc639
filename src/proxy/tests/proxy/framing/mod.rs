//! The framing corpus: some 240 messages, what reaches the backend and what the client sees. The same messages go to
//! HAProxy and nginx, and where they differ the corpus names the sentence that justifies ours.

mod corpus;
mod observe;
pub mod peers;

use crate::support::*;
use corpus::Case;
use observe::{Seen, Stage};
use peers::Limits;
use std::time::Duration;
use zonekeeper_core::model::Protocol;

pub const REQUESTS: &str = include_str!("requests.corpus");
pub const RESPONSES: &str = include_str!("responses.corpus");
/// Largest body in the corpus's world, in bytes.
const MAX_BODY: u64 = 1000;
/// So many of each peer work at once: some cases wait for a timeout of theirs.
const LANES: usize = 6;

fn cases() -> Vec<Case> {
    let cases = [corpus::parse(REQUESTS), corpus::parse(RESPONSES)].concat();
    assert!(cases.len() >= 150, "only {} cases", cases.len());
    cases
}

fn world(stage: &Stage) -> World {
    let mut state = state(Protocol::Http, &[stage.server.addr]);
    edit_listener(&mut state, |l| l.max_body = MAX_BODY);
    edit_pool(&mut state, |p| p.eject_ms = 0);
    World::start(state)
}

/// What is wrong with what came of a case.
fn faults(case: &Case, seen: &Seen) -> Vec<String> {
    let has = |bytes: &[u8], text: &[u8]| bytes.windows(text.len()).any(|w| w == text);
    let show = |text: &[u8]| String::from_utf8_lossy(text).escape_debug().to_string();
    let mut wrong = Vec::new();
    for (what, want, got) in
        [("client", &case.client, &seen.client), ("backend", &case.backend, &seen.backend)]
    {
        if want != got {
            wrong.push(format!("{what} wants {want:.300} got {got:.300}"));
        }
    }
    for (texts, bytes, wanted) in [
        (&case.sees, &seen.backend_bytes, true),
        (&case.hides, &seen.backend_bytes, false),
        (&case.shows, &seen.client_bytes, true),
        (&case.conceals, &seen.client_bytes, false),
    ] {
        for text in texts.iter().filter(|t| has(bytes, t) != wanted) {
            wrong.push(format!("{} is there: {}, in {}", show(text), !wanted, show(bytes)));
        }
    }
    wrong
}

#[tokio::test]
async fn every_message_has_one_reading_or_is_refused() {
    let stage = Stage::new();
    let world = world(&stage);
    let addr = world.addr("web");
    let (mut wrong, mut refused) = (Vec::new(), 0);
    for case in cases() {
        let seen = stage.play(&case, addr, PATIENCE).await;
        let last = case.client.rsplit(' ').next().unwrap();
        refused += u64::from(["400", "413", "414", "417", "431", "501", "505"].contains(&last));
        let faults = faults(&case, &seen);
        wrong.extend(faults.into_iter().map(|f| format!("{}: {f}", case.name)));
    }
    let counted = world.proxy.counters().listeners[0].1.refused;
    assert_eq!(counted, refused, "each refusal is counted");
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
}

/// How a peer differs from ours, case by case; the second says that nothing justifies ours.
async fn differences(name: &'static str, lane: usize) -> (Vec<(String, bool)>, Option<String>) {
    let stage = Stage::new();
    let limits = Limits { max_body: MAX_BODY, response_ms: 2000 };
    let Some(peer) = peers::start(name, &[stage.server.addr], limits).await else { return (vec![], None) };
    let mut lines = Vec::new();
    for case in cases().iter().skip(lane).step_by(LANES) {
        let mut seen = stage.play(case, peer.addr, Duration::from_millis(2500)).await;
        for _ in 0..3 {
            // What nobody expects is looked at again: a busy machine meets the peer's timeouts.
            if (&seen.client, &seen.backend) == (&case.client, &case.backend) || !case.why.is_empty() {
                break;
            }
            seen = stage.play(case, peer.addr, Duration::from_millis(2500)).await;
        }
        if (&seen.client, &seen.backend) != (&case.client, &case.backend) {
            let ours = format!("ours {:.60} | {:.60}", case.client, case.backend);
            let theirs = format!("{name} {:.60} | {:.60}", seen.client, seen.backend);
            lines.push((
                format!("{}\n    {ours}\n    {theirs}\n    {}", case.name, case.why),
                case.why.is_empty(),
            ));
        }
    }
    (lines, Some(peer.version.clone()))
}

/// The differences are kept in `differences.txt`; `UPDATE_EXPECT=1` writes it anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_peers_read_otherwise_a_sentence_justifies_ours() {
    let mut report = String::new();
    let mut unjustified = Vec::new();
    for name in ["haproxy", "nginx"] {
        let lanes: Vec<_> = (0..LANES).map(|lane| tokio::spawn(differences(name, lane))).collect();
        let (mut all, mut version) = (Vec::new(), None);
        for lane in lanes {
            let (lines, v) = lane.await.unwrap();
            all.extend(lines);
            version = version.or(v);
        }
        let Some(version) = version else { continue };
        all.sort();
        let title = format!("{name} {version}: {} of {} cases differ", all.len(), cases().len());
        peers::show(&title);
        report += &format!("# {title}\n\n");
        all.iter().for_each(|(line, _)| report += &format!("{line}\n\n"));
        unjustified.extend(all.into_iter().filter(|(_, bare)| *bare).map(|(line, _)| line));
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/proxy/framing/differences.txt");
        std::fs::write(file, report).unwrap();
    }
    assert!(unjustified.is_empty(), "nothing justifies ours:\n{}", unjustified.join("\n"));
}
