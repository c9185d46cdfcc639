//! A change costs what changed: one record in a large zone, and its publication.
//!
//! The figure that counts is the release build's: `cargo test --release -p zonekeeper-core --test cost -- --ignored
//! --nocapture`.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test ends at the first surprise, and says what it measured

use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use zonekeeper_core::{
    State,
    answer::DnsTable,
    entry::Delta,
    model::ZoneOwner,
    name::Name,
    zone::{RrSet, Zone, rtype},
};

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn a(i: u32, last: u8) -> RrSet {
    let rdata = vec![Box::from([10, (i >> 16) as u8, (i >> 8) as u8, i as u8]), Box::from([11, 0, 0, last])];
    RrSet::new(name(&format!("h{i}.example.")), rtype::A, 300, rdata).unwrap()
}

/// A state with a zone of `n` names.
fn state(n: u32) -> State {
    let mut zone = Zone::new(name("example."), ZoneOwner::Api);
    let mut soa = vec![0, 0];
    [1u32, 3600, 600, 86400, 30].iter().for_each(|n| soa.extend(n.to_be_bytes()));
    zone.put(RrSet::new(name("example."), rtype::SOA, 300, vec![soa.into()]).unwrap()).unwrap();
    zone.put(RrSet::new(name("example."), rtype::NS, 300, vec![b"\x02ns\x07example\0"[..].into()]).unwrap())
        .unwrap();
    for i in 0..n {
        zone.put(a(i, 0)).unwrap();
    }
    zone.advance_serial();
    let mut state = State::default();
    state.zones.insert(name("example."), Arc::new(zone));
    state
}

/// The median time of changing one record and publishing it, old tables dropped.
fn change(n: u32, rounds: u32) -> Duration {
    let mut state = state(n);
    let mut table = DnsTable::build(&state);
    let delta = Delta { zones: vec![name("example.")], ..Delta::default() };
    let mut times = Vec::new();
    for i in 0..rounds {
        // As control does: readers hold the published state and table while the next ones are made.
        let (held, served) = (state.zones.clone(), table.clone());
        let started = Instant::now();
        let zone = Arc::make_mut(state.zones.get_mut(&name("example.")).unwrap());
        assert!(zone.put(a(i * 7919 % n, 1 + (i % 250) as u8)).unwrap());
        zone.advance_serial();
        table = table.update(&state, &delta);
        drop((held, served));
        times.push(started.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn a_record_in_a_large_zone_is_published_at_once() {
    let median = change(60_000, 20);
    println!("{median:?} for one of 60,000 names, in this build");
    assert!(median < Duration::from_millis(50), "{median:?}: far more than one chunk was copied");
}

#[test]
#[ignore = "measures the release build, and needs some hundred megabytes"]
fn one_of_a_million_names_is_published_in_a_millisecond() {
    let median = change(1_000_000, 200);
    println!("{median:?} for one of 1,000,000 names");
    assert!(median <= Duration::from_millis(1), "{median:?}");
}
