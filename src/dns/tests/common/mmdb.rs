//! Writes small databases in MaxMind's format, version 2.0.

#![allow(dead_code)] // each binary uses a part
use std::{io::Write, net::IpAddr};

/// A value of a record.
#[derive(Clone)]
pub(crate) enum Value {
    Text(&'static str),
    Double(f64),
    U16(u16),
    U32(u32),
    U64(u64),
    Map(Vec<(&'static str, Value)>),
    Array(Vec<Value>),
}

fn control(kind: u8, len: usize, out: &mut Vec<u8>) {
    assert!(len < 285, "small databases have small values");
    let (size, more) = if len < 29 { (len as u8, None) } else { (29, Some((len - 29) as u8)) };
    match kind {
        1..=7 => out.push((kind << 5) | size),
        _ => out.extend_from_slice(&[size, kind - 7]),
    }
    out.extend(more);
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        let number = |kind, bytes: &[u8], out: &mut Vec<u8>| {
            let bytes = &bytes[bytes.iter().take_while(|b| **b == 0).count()..];
            control(kind, bytes.len(), out);
            out.extend_from_slice(bytes);
        };
        match self {
            Value::Text(text) => {
                control(2, text.len(), out);
                out.extend_from_slice(text.as_bytes());
            }
            Value::Double(n) => {
                control(3, 8, out);
                out.extend_from_slice(&n.to_be_bytes());
            }
            Value::U16(n) => number(5, &n.to_be_bytes(), out),
            Value::U32(n) => number(6, &n.to_be_bytes(), out),
            Value::U64(n) => number(9, &n.to_be_bytes(), out),
            Value::Map(map) => {
                control(7, map.len(), out);
                for (key, value) in map {
                    Value::Text(key).write(out);
                    value.write(out);
                }
            }
            Value::Array(all) => {
                control(11, all.len(), out);
                all.iter().for_each(|v| v.write(out));
            }
        }
    }
}

#[derive(Clone, Copy)]
enum To {
    Nothing,
    Node(usize),
    Data(usize),
}

/// A database of these networks; none lies in another.
pub(crate) fn write(networks: &[(&str, Value)]) -> tempfile::NamedTempFile {
    let (mut nodes, mut data) = (vec![[To::Nothing; 2]], Vec::new());
    for (network, value) in networks {
        let (addr, len) = network.split_once('/').unwrap();
        let (bits, len) = match (addr.parse().unwrap(), len.parse::<usize>().unwrap()) {
            (IpAddr::V4(a), len) => (u128::from(a.to_bits()), 96 + len),
            (IpAddr::V6(a), len) => (a.to_bits(), len),
        };
        let side = |depth: usize| (bits >> (127 - depth) & 1) as usize;
        let mut at = 0;
        for depth in 0..len - 1 {
            at = match nodes[at][side(depth)] {
                To::Node(next) => next,
                To::Nothing => {
                    nodes.push([To::Nothing; 2]);
                    nodes[at][side(depth)] = To::Node(nodes.len() - 1);
                    nodes.len() - 1
                }
                To::Data(_) => panic!("{network} lies in another"),
            };
        }
        nodes[at][side(len - 1)] = To::Data(data.len());
        value.write(&mut data);
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&file_of(&nodes, &data)).unwrap();
    file.flush().unwrap();
    file
}

fn file_of(nodes: &[[To; 2]], data: &[u8]) -> Vec<u8> {
    let count = nodes.len();
    let mut out = Vec::new();
    for to in nodes.iter().flatten() {
        let record = match to {
            To::Nothing => count,
            To::Node(n) => *n,
            To::Data(at) => count + 16 + at,
        };
        out.extend_from_slice(&(record as u32).to_be_bytes()[1..]);
    }
    out.extend_from_slice(&[0; 16]);
    out.extend_from_slice(data);
    out.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    Value::Map(vec![
        ("binary_format_major_version", Value::U16(2)),
        ("binary_format_minor_version", Value::U16(0)),
        ("build_epoch", Value::U64(1_700_000_000)),
        ("database_type", Value::Text("Test")),
        ("description", Value::Map(vec![])),
        ("ip_version", Value::U16(6)),
        ("languages", Value::Array(vec![])),
        ("node_count", Value::U32(count as u32)),
        ("record_size", Value::U16(24)),
    ])
    .write(&mut out);
    out
}

/// A city as GeoLite2 writes it.
pub(crate) fn city(country: &'static str, continent: &'static str, place: Option<(f64, f64)>) -> Value {
    let names = || ("names", Value::Map(vec![("en", Value::Text("Somewhere"))]));
    let mut map = vec![
        ("city", Value::Map(vec![("geoname_id", Value::U32(7)), names()])),
        ("continent", Value::Map(vec![("code", Value::Text(continent)), names()])),
        ("country", Value::Map(vec![("iso_code", Value::Text(country)), names()])),
    ];
    if let Some((north, east)) = place {
        let location = vec![
            ("accuracy_radius", Value::U16(20)),
            ("latitude", Value::Double(north)),
            ("longitude", Value::Double(east)),
            ("time_zone", Value::Text("Europe/Berlin")),
        ];
        map.push(("location", Value::Map(location)));
    }
    Value::Map(map)
}

/// An autonomous system as GeoLite2 writes it.
pub(crate) fn asn(number: u32) -> Value {
    Value::Map(vec![
        ("autonomous_system_number", Value::U32(number)),
        ("autonomous_system_organization", Value::Text("Example")),
    ])
}
