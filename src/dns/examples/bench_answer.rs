//! The cost of an answer without the system's: `bench_answer NAMES [hit|nx|deep|edns|https]`, in nanoseconds, names in random order.

use std::{error::Error, hint::black_box, net::SocketAddr, path::Path, sync::Arc, time::Instant};
use zonekeeper_core::{State, answer::DnsTable, model::ZoneOwner, name::Name, zone::Zone};
use zonekeeper_dns::{BATCH, Condition, Counters, Datagrams, Responder, Transport, View, zonefile};

/// Bytes kept of each query.
const QUERY: usize = 64;
const BUFFER: usize = 4096 + 64;

struct Batch {
    buffers: Vec<[u8; BUFFER]>,
    lens: [usize; BATCH],
}

impl Datagrams for Batch {
    fn datagram(&mut self, i: usize) -> (&mut [u8], usize) {
        (&mut self.buffers[i], self.lens[i])
    }
    fn reply(&mut self, _: usize, len: Option<usize>) {
        black_box(len);
    }
    fn peer(&self, _: usize) -> Option<SocketAddr> {
        None
    }
}

fn zone(names: usize) -> Result<State, Box<dyn Error>> {
    let mut text = String::from("$TTL 30\n@ SOA ns h 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\n");
    for i in 0..names {
        let (a, b) = (i / 250 % 256, i % 250 + 1);
        text.push_str(&format!("h{i} A 10.0.{a}.{b}\nh{i} A 10.1.{a}.{b}\n"));
    }
    let origin = Name::parse("bench.example")?;
    let mut zone = Zone::new(origin.clone(), ZoneOwner::File);
    for set in zonefile::parse(text.as_bytes(), Path::new("generated"), &origin)? {
        zone.put(set)?;
    }
    zone.advance_serial();
    let mut state = State::default();
    state.zones.insert(origin, Arc::new(zone));
    Ok(state)
}

fn queries(names: usize, load: &str) -> Vec<(u8, [u8; QUERY])> {
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % names
    };
    let letter = if matches!(load, "nx" | "deep") { 'x' } else { 'h' };
    let mut all = Vec::new();
    for _ in 0..names.max(1 << 16) {
        let mut q = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(load == "edns")];
        let host = format!("{letter}{}", next());
        q.push(host.len() as u8);
        q.extend_from_slice(host.as_bytes());
        if load == "deep" {
            q.extend_from_slice(b"\x03sub");
        }
        q.extend_from_slice(b"\x05bench\x07example\0\0");
        q.extend_from_slice(&[if load == "https" { 65 } else { 1 }, 0, 1]);
        if load == "edns" {
            q.extend_from_slice(&[0, 0, 41, 16, 0, 0, 0, 0x80, 0, 0, 0]);
        }
        let mut kept = [0; QUERY];
        kept[..q.len()].copy_from_slice(&q);
        all.push((q.len() as u8, kept));
    }
    all
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let names: usize = args.first().map_or(Ok(1000), |n| n.parse())?;
    let load = args.get(1).map_or("hit", |l| l);
    let table = DnsTable::build(&zone(names)?);
    let mut responder = Responder::new(&[], Arc::new(Counters::default()));
    let queries = queries(names, load);
    let mut batch = Batch { buffers: vec![[0; BUFFER]; BATCH], lens: [0; BATCH] };
    let condition = Condition::default();
    let view = View { table: &table, condition, secrets: None, geo: None, transport: Transport::Udp };
    for (name, n) in
        [("nothing", 0), ("general, 1", 1), ("answer, 1", 1), ("batch", 1), ("batch", 4), ("batch", 32)]
    {
        let started = Instant::now();
        for some in queries.chunks(n.max(1)) {
            for (i, (len, q)) in some.iter().enumerate() {
                batch.buffers[i][..QUERY].copy_from_slice(q);
                batch.lens[i] = usize::from(*len);
            }
            let (buf, len) = (&mut batch.buffers[0], batch.lens[0]);
            match name {
                "nothing" => {}
                "general, 1" => {
                    black_box(responder.answer_generally(&table, condition, Transport::Udp, buf, len));
                }
                "answer, 1" => {
                    black_box(responder.answer(&table, condition, Transport::Udp, buf, len));
                }
                _ => responder.answer_batch(&view, &mut batch, some.len()),
            }
        }
        let nanos = started.elapsed().as_nanos() as f64 / queries.len() as f64;
        #[allow(clippy::print_stdout, reason = "the result of a measurement")]
        {
            println!("{names} names, {load}: {name} {n}: {nanos:.1} ns");
        }
    }
    Ok(())
}
