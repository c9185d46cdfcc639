use super::*;
use crate::health::{Fault, LocalHealth, now_ms};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};
use zonekeeper_core::{
    model::Pool,
    route::{BackendTable, PoolTable},
};

fn pool(balance: Balance, weights: &[u8], max: u32) -> (Arc<LocalHealth>, LivePool) {
    let backend = |(i, &weight): (usize, &u8)| BackendTable {
        addr: SocketAddr::from(([127, 0, 0, 1], 1000 + i as u16)),
        weight,
        force: None,
    };
    let spec = Pool { balance, max_connections: max, eject_ms: 1000, ..Pool::default() };
    let table = PoolTable {
        backends: weights.iter().enumerate().map(backend).collect(),
        ..PoolTable::empty(&"web".parse().unwrap(), spec)
    };
    let health = LocalHealth::new();
    let pool = LivePool::new(Arc::new(table), &[], &health, None);
    (health, pool)
}

fn edit(pool: &mut LivePool, change: impl FnOnce(&mut Pool)) {
    let mut table = (*pool.table).clone();
    change(Arc::make_mut(&mut table.spec));
    pool.table = Arc::new(table);
}

fn place(pool: &LivePool, key: u64, now_ms: u64) -> Place {
    match choose(pool, key, &[], now_ms) {
        Choice::Backend(place) => place,
        other => panic!("{other:?}"),
    }
}

fn next(pool: &LivePool) -> usize {
    place(pool, 0, now_ms()).index
}

fn shares(pool: &LivePool, n: usize) -> Vec<usize> {
    let mut count = vec![0; pool.backends.len()];
    for _ in 0..n {
        let place = place(pool, 0, now_ms());
        release(pool, place);
        count[place.index] += 1;
    }
    count
}

#[test]
fn round_robin_is_weighted_and_smooth() {
    let (_health, pool) = pool(Balance::RoundRobin, &[5, 1, 1, 0], 0);
    let turns: Vec<usize> = (0..14).map(|_| next(&pool)).collect();
    assert_eq!(turns.iter().filter(|i| **i == 0).count(), 10, "{turns:?}");
    assert!(!turns.windows(5).any(|w| w == [0; 5]), "the others come in between: {turns:?}");
    assert_eq!(shares(&pool, 7000), [5000, 1000, 1000, 0]);
}

#[test]
fn a_backend_that_returns_does_not_catch_up() {
    let (health, pool) = pool(Balance::RoundRobin, &[1, 1, 1], 0);
    health.set(&pool.table.id, pool.backends[0].addr, false);
    assert_eq!(shares(&pool, 1000), [0, 500, 500], "what one misses is shared evenly");
    health.set(&pool.table.id, pool.backends[0].addr, true);
    let after = shares(&pool, 300);
    assert!(after.iter().all(|n| (99..=101).contains(n)), "{after:?}");
}

#[test]
fn a_light_backend_that_returns_gets_its_share() {
    for balance in [Balance::RoundRobin, Balance::LeastConnections] {
        let (health, pool) = pool(balance, &[10, 1], 0);
        assert_eq!(shares(&pool, 1100), [1000, 100], "{balance:?}");
        health.set(&pool.table.id, pool.backends[1].addr, false);
        assert_eq!(shares(&pool, 1000), [1000, 0], "{balance:?}");
        health.set(&pool.table.id, pool.backends[1].addr, true);
        let after = shares(&pool, 1100);
        assert!((99..=101).contains(&after[1]), "{balance:?}: {after:?}");
    }
}

#[test]
fn least_connections_fills_up_by_weight_and_ties_take_turns() {
    let (_health, full) = pool(Balance::LeastConnections, &[2, 1], 0);
    for _ in 0..30 {
        next(&full);
    }
    assert_eq!((full.backends[0].inflight(), full.backends[1].inflight()), (20, 10));
    let (_health, idle) = pool(Balance::LeastConnections, &[1, 1, 1], 0);
    assert_eq!(shares(&idle, 300), [100, 100, 100], "an idle pool does not always choose the first");
}

#[test]
fn least_connections_is_exact_over_threads() {
    let (_health, pool) = pool(Balance::LeastConnections, &[1, 1, 1, 1], 0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| (0..1000).for_each(|_| assert!(next(&pool) < 4)));
        }
    });
    assert!(pool.backends.iter().all(|b| b.inflight() == 1000), "{:?}", pool.backends);
}

#[test]
fn full_backends_are_passed_over_and_the_last_place_is_a_limit() {
    let (_health, pool) = pool(Balance::RoundRobin, &[1, 1], 2);
    let mut taken = BTreeMap::new();
    for _ in 0..4 {
        *taken.entry(next(&pool)).or_insert(0) += 1;
    }
    assert_eq!(taken, BTreeMap::from([(0, 2), (1, 2)]));
    assert_eq!(choose(&pool, 0, &[], now_ms()), Choice::Full);
}

#[test]
fn response_time_prefers_the_fast_and_spares_the_hung() {
    let (_health, pool) = pool(Balance::ResponseTime, &[1, 1, 1], 0);
    for (i, us) in [1000, 10_000, 1000].into_iter().enumerate() {
        pool.backends[i].latency.record(now_us(), us);
    }
    let got = shares(&pool, 300);
    assert!(got[1] <= 30, "{got:?}");
    assert!(got[0] > 100 && got[2] > 100, "{got:?}");
}

#[test]
fn a_large_pool_is_balanced_by_two_choices() {
    let (_health, pool) = pool(Balance::ResponseTime, &[1; 40], 0);
    for _ in 0..400 {
        next(&pool);
    }
    // by chance alone some would have 18 and more
    assert!(pool.backends.iter().all(|b| (6..=13).contains(&b.inflight())), "{:?}", loads(&pool));
}

#[test]
fn ejected_backends_are_a_last_resort_and_those_that_are_down_are_none() {
    let (health, pool) = pool(Balance::RoundRobin, &[1, 1], 0);
    health.eject(&pool.backends[0], Fault::Connect, 60_000);
    assert_eq!(shares(&pool, 10), [0, 10]);
    health.set(&pool.table.id, pool.backends[1].addr, false);
    assert_eq!(shares(&pool, 10), [10, 0]);
    assert_eq!(choose(&pool, 0, &[0], now_ms()), Choice::Nothing);
}

#[test]
fn round_robin_shares_follow_any_weights() {
    let mut x = 7u64;
    for round in 0..200 {
        let mut next = |below: u64| {
            x = mix(x.wrapping_add(0x9e37_79b9_7f4a_7c15));
            x % below
        };
        let weights: Vec<u8> = (0..2 + next(9)).map(|_| 1 + next(20) as u8).collect();
        let total: usize = weights.iter().map(|w| usize::from(*w)).sum();
        let (_health, pool) = pool(Balance::RoundRobin, &weights, 0);
        let got = shares(&pool, 100 * total);
        for (i, weight) in weights.iter().enumerate() {
            let ideal = 100 * usize::from(*weight);
            assert!(got[i].abs_diff(ideal) <= 2 + ideal / 50, "{round}: {weights:?} {got:?}");
        }
    }
}

fn chosen(pool: &LivePool, key: u64) -> usize {
    let place = place(pool, key, now_ms());
    release(pool, place);
    place.index
}

#[test]
fn a_hash_keeps_its_backend_and_one_that_goes_moves_only_its_own() {
    let (health, pool) = pool(Balance::Hash, &[1, 1, 2, 1], 0);
    let keys: Vec<u64> = (0..10_000u64).map(|k| hash(&k.to_le_bytes())).collect();
    let before: Vec<usize> = keys.iter().map(|k| chosen(&pool, *k)).collect();
    let count = |i| before.iter().filter(|b| **b == i).count();
    for (i, ideal) in [(0, 2000), (1, 2000), (2, 4000), (3, 2000)] {
        assert!(count(i).abs_diff(ideal) < 200, "backend {i}: {}", count(i));
    }
    health.set(&pool.table.id, pool.backends[1].addr, false);
    for (key, was) in keys.iter().zip(&before) {
        let is = chosen(&pool, *key);
        assert!(is == *was || *was == 1, "a key moved that had no reason to");
        assert_ne!(is, 1);
    }
    health.set(&pool.table.id, pool.backends[1].addr, true);
    assert!(keys.iter().zip(&before).all(|(k, was)| chosen(&pool, *k) == *was), "and they come back");
}

#[test]
fn a_hash_is_made_of_what_the_pool_says_or_of_the_client() {
    use zonekeeper_core::{model::HashKey, route::Sample};
    let of = |hash: HashKey, cookie: &str, source: &str| {
        let spec = Pool { balance: Balance::Hash, hash, ..Pool::default() };
        let request = Sample {
            target: "/a?b".into(),
            source: source.parse().ok(),
            headers: vec![("Cookie".into(), cookie.into()), ("X-User".into(), "7".into())],
            ..Sample::default()
        };
        key(&PoolTable::empty(&"web".parse().unwrap(), spec), &request)
    };
    let by_cookie = |cookie, source| of(HashKey::Cookie("sid".into()), cookie, source);
    assert_eq!(by_cookie("a=b; sid=1", "::1"), by_cookie("sid=1", "::2"));
    assert_ne!(by_cookie("sid=1", "::1"), by_cookie("sid=2", "::1"));
    assert_ne!(by_cookie("xsid=1", "::1"), by_cookie("xsid=1", "::2"), "without the cookie it is the client");
    assert_eq!(of(HashKey::Source, "", "192.0.2.1"), of(HashKey::Source, "", "::ffff:192.0.2.1"));
    assert_eq!(of(HashKey::Path, "", "::1"), hash(b"/a"));
    assert_eq!(of(HashKey::Header("x-user".into()), "", "::1"), hash(b"7"));
    assert_eq!(of(HashKey::Source, "", "192.0.2.1"), 2_161_984_699_633_912_267, "every version hashes alike");
}

#[test]
fn two_choices_keep_the_load_even() {
    let (_health, even) = pool(Balance::TwoChoices, &[1; 10], 0);
    for _ in 0..1000 {
        next(&even);
    }
    // by chance alone they would be 10 apart and more (Mitzenmacher 2001: log log n / log 2)
    assert!(loads(&even).iter().all(|n| (95..=105).contains(n)), "{:?}", loads(&even));
    let (_health, two) = pool(Balance::TwoChoices, &[1, 1], 0);
    for n in 1..100 {
        next(&two);
        let loads = loads(&two);
        assert!(loads[0].abs_diff(loads[1]) == n % 2, "of two backends, both are compared: {loads:?}");
    }
}

#[test]
fn two_choices_honour_weights() {
    let (_health, busy) = pool(Balance::TwoChoices, &[5, 1, 1, 1, 1, 1, 0], 0);
    for _ in 0..1000 {
        next(&busy);
    }
    let loads = loads(&busy);
    assert!((480..=520).contains(&loads[0]) && loads[6] == 0, "requests that last: {loads:?}");
    let (_health, idle) = pool(Balance::TwoChoices, &[3, 1, 1, 1], 0);
    let got = shares(&idle, 6000);
    assert!((2700..=3300).contains(&got[0]), "requests that do not: {got:?}");
}

fn loads(pool: &LivePool) -> Vec<u32> {
    pool.backends.iter().map(|b| b.inflight()).collect()
}

#[test]
fn a_backend_that_returns_is_warmed_up() {
    let at = |pool: &LivePool, ms: u64| {
        let mut first = 0;
        for key in 0..1000u64 {
            let place = place(pool, hash(&key.to_le_bytes()), now_ms() + ms);
            release(pool, place);
            first += usize::from(place.index == 0);
        }
        first
    };
    for balance in [Balance::RoundRobin, Balance::Hash] {
        let (health, mut pool) = pool(balance, &[1, 1], 0);
        edit(&mut pool, |p| p.slow_start_ms = 10_000);
        if balance == Balance::RoundRobin {
            assert_eq!(shares(&pool, 100), [50, 50], "at the start nobody is warmed up");
        }
        let new = at(&pool, 0);
        health.set(&pool.table.id, pool.backends[0].addr, false);
        health.set(&pool.table.id, pool.backends[0].addr, true);
        let (cold, warm, hot) = (at(&pool, 0), at(&pool, 5000), at(&pool, 60_000));
        assert!((460..=540).contains(&new), "{balance:?}: at the start nobody is warmed up: {new}");
        assert!((70..=120).contains(&cold), "{balance:?}: a tenth of its share: {cold}");
        assert!((300..=370).contains(&warm), "{balance:?}: half of it: {warm}");
        match balance {
            Balance::Hash => assert_eq!(hot, new, "the keys that it had before"),
            _ => assert!((480..=520).contains(&hot), "all of it: {hot}"),
        }
    }
}

/// So many requests, of which each backend fails as often as `fails` says; how many each one got.
fn with_failures(pool: &LivePool, n: usize, fails: impl Fn(usize) -> bool) -> Vec<usize> {
    let mut count = vec![0; pool.backends.len()];
    for _ in 0..n {
        let place = place(pool, 0, now_ms());
        let i = place.index;
        count[i] += 1;
        pool.backends[i].totals.requests.fetch_add(1, Relaxed);
        pool.backends[i].answered(if fails(i) { 500 } else { 200 });
        release(pool, place);
    }
    count
}

#[test]
fn a_backend_that_fails_more_than_its_peers_is_left_out() {
    let (_health, live) = pool(Balance::RoundRobin, &[1, 1, 1], 0);
    let got = with_failures(&live, 300, |i| i == 1);
    assert!(got[1] <= 6, "{got:?}");
    assert!(live.backends[1].ejected(now_ms()));
    let (_health, all) = pool(Balance::RoundRobin, &[1, 1, 1], 0);
    let got = with_failures(&all, 300, |_| true);
    assert_eq!(got, [100, 100, 100], "where all fail alike, it is not the backends");
}

#[test]
fn errors_eject_no_more_than_the_cap_and_a_trial_lets_in_again() {
    let (health, mut pool) = pool(Balance::RoundRobin, &[1, 1, 1, 1], 0);
    edit(&mut pool, |p| p.max_ejected = 25);
    let got = with_failures(&pool, 1000, |i| i == 1 || i == 2);
    let ejected = pool.backends.iter().filter(|b| b.ejected(now_ms())).count();
    assert_eq!(ejected, 1, "two fail, one of four may be left out: {got:?}");
    let bad = pool.backends.iter().position(|b| b.ejected(now_ms())).unwrap();
    health.set(&pool.table.id, pool.backends[bad].addr, true);
    assert!(pool.backends[bad].ejected(now_ms()), "a check that connects says nothing of errors");
    health.settle(now_ms() + 60_000);
    let may = || usable(&pool, &[], bad, now_ms());
    assert!(may() && pool.backends[bad].on_trial());
    let trial = trial(&pool, bad);
    assert!(!may(), "one request is the trial");
    assert_eq!(health.healthy_count(&pool.table).0, 4, "and its trial closes no listener");
    pool.backends[bad].answered(500);
    release(&pool, trial);
    assert!(pool.backends[bad].ejected(now_ms() + 1500), "and its failure ejects at once, for longer");
    health.settle(now_ms() + 60_000);
    pool.backends[bad].answered(200);
    pool.backends[bad].inflight.fetch_add(1, AcqRel);
    assert!(!pool.backends[bad].on_trial() && may());
}

/// The place that is this backend's trial, which it gets in its turn.
fn trial(pool: &LivePool, index: usize) -> Place {
    let mut tries = (0..pool.backends.len() * 2).map(|_| place(pool, 0, now_ms()));
    let found = tries.find(|place| place.index == index).unwrap();
    assert!(found.trial);
    found
}

#[test]
fn what_was_in_flight_before_an_ejection_is_no_trial() {
    let (health, pool) = pool(Balance::RoundRobin, &[1, 1], 0);
    let old: Vec<Place> = (0..6).map(|_| place(&pool, 0, now_ms())).collect();
    health.eject(&pool.backends[0], Fault::Connect, 1000);
    health.settle(now_ms() + 60_000);
    let first = trial(&pool, 0);
    assert_eq!(shares(&pool, 10), [0, 10], "one at a time");
    old.iter().for_each(|place| release(&pool, *place));
    assert_eq!(shares(&pool, 10), [0, 10], "and the end of an old one is not its end");
    release(&pool, first);
    let second = trial(&pool, 0);
    pool.backends[0].answered(200);
    release(&pool, second);
    assert_eq!(shares(&pool, 10), [5, 5]);
}
