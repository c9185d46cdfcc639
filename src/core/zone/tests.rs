use super::*;
use crate::codec;
use alloc::{boxed::Box, collections::BTreeMap, format, string::String, vec, vec::Vec};
use proptest::prelude::*;

fn name(s: &str) -> Name {
    Name::parse(s).unwrap()
}

fn set(owner: &str, rtype: u16, ttl: u32, rdata: &[&[u8]]) -> RrSet {
    RrSet::new(name(owner), rtype, ttl, rdata.iter().map(|r| Box::from(*r)).collect()).unwrap()
}

fn soa(serial: u32) -> RrSet {
    let mut rdata = vec![0, 0];
    for n in [serial, 3600, 600, 86400, 30] {
        rdata.extend_from_slice(&n.to_be_bytes());
    }
    set("example.", rtype::SOA, 300, &[&rdata])
}

fn ns(owner: &str) -> RrSet {
    set(owner, rtype::NS, 300, &[b"\x02ns\x07example\0"])
}

fn zone() -> Zone {
    let mut z = Zone::new(name("example."), ZoneOwner::File);
    z.put(soa(7)).unwrap();
    z.put(ns("example.")).unwrap();
    z.advance_serial();
    z
}

fn a(i: u32) -> RrSet {
    set(&format!("h{i}.example."), rtype::A, 30, &[&i.to_be_bytes()])
}

fn place(z: &Zone, qname: &str) -> (bool, usize, Option<(usize, CutKind)>) {
    let key = Key::within(&name(qname), z.origin()).unwrap();
    let p = z.place_of(&key);
    (p.node.is_some(), p.encloser, p.cut.map(|(n, kind, _)| (n, kind)))
}

#[test]
fn the_serial_is_the_declared_one_or_the_next_by_rfc_1982() {
    let mut z = zone();
    assert_eq!((z.serial(), z.soa()), (7, Some(soa(7))));
    z.advance_serial();
    assert_eq!((z.serial(), z.soa()), (8, Some(soa(8))));
    assert_eq!((z.put(soa(7)), z.would_change(&soa(7))), (Ok(false), Ok(false)), "the file has not changed");
    assert_eq!((z.would_change(&soa(100)), z.put(soa(100)), z.serial()), (Ok(true), Ok(true), 8));
    z.advance_serial();
    assert_eq!(z.serial(), 100);
    z.put(soa(u32::MAX)).unwrap();
    z.advance_serial();
    assert_eq!(z.serial(), 101, "4294967295 is behind 100 in serial arithmetic");
    z.advance_serial_by_incarnation();
    assert_eq!(z.serial(), 101 + INCARNATION_STEP);
    let mut high = Zone::new(name("example."), ZoneOwner::Api);
    high.put(soa(u32::MAX)).unwrap();
    high.advance_serial();
    assert_eq!(high.serial(), u32::MAX, "a new zone begins with the declared serial");
    high.advance_serial();
    assert_eq!((high.serial(), high.soa()), (0, Some(soa(0))));
}

#[test]
fn what_a_zone_refuses_it_explains() {
    let mut z = zone();
    z.put(set("c.example.", rtype::CNAME, 1, &[b"\x01x\0"])).unwrap();
    let text = |e: ZoneError| format!("{e}");
    assert_eq!(
        z.put(set("c.example.", rtype::A, 1, &[&[1, 2, 3, 4]])).map_err(text),
        Err("c.example. cannot have type 1 beside type 5: a CNAME stands alone (RFC 1034 §3.6.2)".into())
    );
    assert!(matches!(
        z.put(set("example.", rtype::CNAME, 1, &[b"\0"])),
        Err(ZoneError::CnameNotAlone { .. })
    ));
    assert!(matches!(z.put(set("com.", rtype::A, 1, &[&[1; 4]])), Err(ZoneError::Outside { .. })));
    assert!(matches!(z.put(RrSet { name: name("x.example."), ..soa(1) }), Err(ZoneError::SoaBelowApex(_))));
    let raw = |rtype, ttl, rdata: Vec<Box<[u8]>>| RrSet::new(name("x.example."), rtype, ttl, rdata);
    assert!(matches!(raw(1, 1, vec![]), Err(ZoneError::Empty { .. })));
    assert!(matches!(raw(1, 1 << 31, vec![Box::from([0; 4])]), Err(ZoneError::Ttl { .. })));
    assert!(matches!(raw(1, 1, vec![Box::from([0; 5])]), Err(ZoneError::Rdata { .. })));
    assert!(matches!(raw(255, 1, vec![Box::from([0; 5])]), Err(ZoneError::Meta { .. })));
    assert!(matches!(raw(5, 1, vec![Box::from([0]), Box::from([1, 97, 0])]), Err(ZoneError::Single { .. })));
    assert!(matches!(raw(16, 1, vec![vec![0; 65_000].into()]), Err(ZoneError::Large { .. })));
    assert!(matches!(raw(2, 1, vec![Box::from([0xc0, 0x0c])]), Err(ZoneError::Rdata { .. })));
    let unsorted = RrSet { rdata: vec![Box::from([2; 4]), Box::from([1; 4])], ..a(1) };
    assert!(matches!(z.put(unsorted), Err(ZoneError::Order { .. })));
    assert!(matches!(
        Zone::new(name("x."), ZoneOwner::Api).validate(),
        Err(ZoneError::Apex { what: "SOA", .. })
    ));
    assert_eq!(z.validate(), Ok(()));
}

#[test]
fn names_are_placed_with_encloser_and_cut() {
    let mut z = zone();
    for s in [
        a(1),
        set("x.ent.deep.example.", rtype::A, 1, &[&[1; 4]]),
        ns("sub.example."),
        set("glue.sub.example.", rtype::A, 1, &[&[1; 4]]),
        ns("below.sub.example."),
        set("d.example.", rtype::DNAME, 1, &[b"\0"]),
    ] {
        z.put(s).unwrap();
    }
    assert_eq!(place(&z, "example."), (true, 0, None));
    assert_eq!(place(&z, "h1.example."), (true, 1, None));
    assert_eq!(place(&z, "nothing.example."), (false, 0, None));
    assert_eq!(place(&z, "ent.deep.example."), (false, 2, None), "an empty non-terminal exists");
    assert_eq!(place(&z, "y.ent.deep.example."), (false, 2, None));
    assert_eq!(place(&z, "a.b.h1.example."), (false, 1, None));
    let cut = Some((1, CutKind::Delegation));
    assert_eq!(place(&z, "sub.example."), (true, 1, cut));
    assert_eq!(place(&z, "glue.sub.example."), (true, 2, cut));
    assert_eq!(place(&z, "q.below.sub.example.").2, cut, "the topmost cut counts");
    assert_eq!(place(&z, "d.example."), (true, 1, None), "the owner of a DNAME itself is not covered");
    assert_eq!(place(&z, "q.d.example.").2, Some((1, CutKind::Dname)));
    assert!(z.remove(&name("sub.example."), rtype::NS) && !z.remove(&name("sub.example."), rtype::NS));
    assert_eq!(place(&z, "glue.sub.example."), (true, 2, None));
}

#[test]
fn odd_labels_keep_their_order_and_come_back() {
    let owners = [
        "a.example.",
        "a\\000.example.",
        "a\\001.example.",
        "a\\002.example.",
        "\\000.a.example.",
        "*.example.",
        "\\.x.example.",
    ];
    let mut z = zone();
    for o in owners {
        z.put(set(o, rtype::A, 1, &[&[1; 4]])).unwrap();
    }
    let mut names: Vec<Name> = owners.iter().map(|o| name(o)).collect();
    names.sort();
    names.insert(0, name("example."));
    names.insert(1, name("example."));
    assert_eq!(z.iter().map(|s| s.name).collect::<Vec<_>>(), names);
}

#[test]
fn a_change_copies_one_chunk_and_the_old_zone_stays() {
    let mut z = zone();
    for i in 0..10_000 {
        z.put(a(i)).unwrap();
    }
    let old = z.clone();
    let (hash, chunks) = (old.hash(), old.chunks.len());
    assert!(chunks > 30 && old.names() == 10_001, "{chunks}");
    z.put(set("h5000.example.", rtype::A, 30, &[&[9; 4]])).unwrap();
    let shared = z.chunks.iter().zip(&old.chunks).filter(|(a, b)| Arc::ptr_eq(a, b)).count();
    assert_eq!((shared, old.hash()), (chunks - 1, hash));
    assert_eq!(old.get(&name("h5000.example."), 1), Some(a(5000)));
    assert_ne!(z.hash(), hash);
    z.put(a(5000)).unwrap();
    assert!(z.hash() == hash && z == old, "the hash depends on the content alone");
}

#[test]
fn a_sorted_import_fills_its_chunks() {
    let mut z = zone();
    for i in 10_000..15_120 {
        z.put(a(i)).unwrap();
    }
    assert!(z.chunks.len() <= 5120 / 256 + 2, "{}", z.chunks.len());
    assert!(z.bytes() < 5122 * 60, "{} bytes for 5120 names of one address", z.bytes());
}

#[test]
fn a_stored_zone_comes_back_and_a_damaged_one_is_refused() {
    let mut z = zone();
    for i in 0..300 {
        z.put(a(i)).unwrap();
    }
    let stored = codec::bytes(&z);
    let back: Zone = codec::from_bytes(&stored).unwrap();
    assert!(back == z && back.hash() == z.hash() && back.len() == z.len() && back.cuts == z.cuts);
    let mut accepted = 0;
    for i in (0..stored.len()).step_by(3) {
        let mut bad = stored.clone();
        bad[i] ^= 0x5a;
        if let Ok(other) = codec::from_bytes::<Zone>(&bad) {
            assert!(other != z && other.iter().count() == other.len(), "byte {i}");
            accepted += 1; // a changed address or TTL is for the checksum around the record to see
        }
    }
    assert!(accepted < stored.len());
}

/// The index finds what the search finds, for names that exist, their ancestors, and others.
fn check_index(index: &ZoneIndex, z: &Zone, labels: &[String]) {
    for label in labels {
        for owner in
            [format!("{label}.example."), format!("q.{label}.example."), format!("{label}0.example.")]
        {
            let key = Key::within(&name(&owner), z.origin()).unwrap();
            let (fast, slow) = (index.place_of(z, &key), z.place_of(&key));
            assert_eq!((fast.node, fast.encloser, fast.cut), (slow.node, slow.encloser, slow.cut), "{owner}");
        }
    }
    for owner in ["example.", "x.example.", "y.x.example.", "x.y.example."] {
        let key = Key::within(&name(owner), z.origin()).unwrap();
        assert_eq!(index.place_of(z, &key).encloser, z.place_of(&key).encloser, "{owner}");
    }
}

/// What a zone is, told plainly: a map.
#[derive(Default)]
struct Model(BTreeMap<(Name, u16), RrSet>);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_zone_is_a_map_with_a_hash_that_ignores_history(edits in prop::collection::vec((0u32..400, 0u8..4, any::<bool>()), 1..900)) {
        let (mut z, mut model) = (Zone::new(name("example."), ZoneOwner::Api), Model::default());
        let mut index = ZoneIndex::build(&z);
        let labels: Vec<String> = (0..400u32).map(|i| format!("{}{}", "x.y.".repeat((i % 3) as usize), i)).collect();
        for (n, (i, value, put)) in edits.into_iter().enumerate() {
            if n % 97 == 0 {
                index = index.update(&z);
            }
            let owner = format!("{}.example.", labels[i as usize]);
            let rtype = if value % 2 == 0 { rtype::A } else { rtype::NS };
            let s = if rtype == rtype::A { set(&owner, rtype, 1, &[&[value; 4]]) } else { ns(&owner) };
            let key = (s.name.clone(), rtype);
            if put {
                prop_assert_eq!(z.put(s.clone()).unwrap(), model.0.insert(key, s.clone()) != Some(s));
            } else {
                prop_assert_eq!(z.remove(&s.name, rtype), model.0.remove(&key).is_some());
            }
        }
        prop_assert_eq!(z.iter().collect::<Vec<_>>(), model.0.values().cloned().collect::<Vec<_>>());
        prop_assert_eq!(z.len(), model.0.len());
        check_index(&index.update(&z), &z, &labels);
        check_index(&ZoneIndex::build(&z), &z, &labels);
        prop_assert_eq!(z.cuts, model.0.keys().filter(|k| k.1 == rtype::NS).count());
        let mut other = Zone::new(name("example."), ZoneOwner::Api);
        for s in model.0.values().rev() {
            other.put(s.clone()).unwrap();
        }
        prop_assert!(other.hash() == z.hash() && other == z);
    }
}
